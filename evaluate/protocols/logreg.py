"""The named logistic-regression protocols. Each number carries its source."""

from __future__ import annotations

import math

from pydantic import Field

from evaluate.protocols.images import ChoosingProtocol


class LogregProtocol(ChoosingProtocol):
    """Multinomial logistic regression by L-BFGS on frozen features, the regularisation chosen on held-out images.

    The objective is scikit-learn's: C * (sum of the images' losses) + |W|^2 / 2, the bias not penalised. Of `grid_size`
    values of C, evenly spaced in log10 between the two powers, the one with the best `metric` on the held-out images is
    taken (of equals the smallest, the most regularised); then the classifier is trained again on all of train and val.
    Several labels an image (VOC07) make one binary classifier a class, a common C, and 11-point mAP.

    Attributes:
        c_power_low, c_power_high, grid_size: the grid, 10 to these powers.
        max_iterations: of L-BFGS for one C.
        tolerance: stop when no entry of the gradient of the mean loss, in standardised features, is larger.
    """

    c_power_low: float = -6.0
    c_power_high: float = 5.0
    grid_size: int = Field(default=45, ge=1)
    max_iterations: int = Field(default=1000, ge=1)
    tolerance: float = Field(default=1e-5, gt=0)

    def grid(self) -> list[float]:
        """The values of C, smallest first."""
        if self.grid_size == 1:
            return [10.0**self.c_power_low]
        step = (self.c_power_high - self.c_power_low) / (self.grid_size - 1)
        return [math.pow(10.0, self.c_power_low + step * i) for i in range(self.grid_size)]


_KORNBLITH = "arXiv:1805.08974, appendix; linusericsson/ssl-transfer linear.py"

PROTOCOLS: dict[str, LogregProtocol] = {
    "dinov2": LogregProtocol(
        name="dinov2",
        source="facebookresearch/dinov2 eval/log_regression.py: 45 values of C, 10^-6 to 10^5, 10 % of train held out, "
        "1000 iterations, retrained on all",
        sources={"tolerance": "this project: theirs is 1e-12, which float32 cannot reach"},
        resize=224,
    ),
    "transfer": LogregProtocol(
        name="transfer",
        source=f"{_KORNBLITH}: L-BFGS, 45 weights of the penalty from 10^-6 to 10^5 (C = 1 / weight), official val "
        "split or 20 % of train, retrained on both; resize 224 bicubic, centre crop 224, CIFAR too",
        sources={
            "metric": "ssl-transfer linear.py: mean per class for Aircraft, Caltech-101, Flowers and Pets, mAP for "
            "VOC07, else top-1",
            "max_iterations": "this project; scikit-learn's default of 100 does not converge",
        },
        c_power_low=-5.0,
        c_power_high=6.0,
        held_out=0.2,
        use_val=True,
        resize=224,
        native_up_to_px=0,
    ),
}
DEFAULT = "dinov2"
