"""The named linear-SVM protocols. Each number carries its source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from evaluate.protocols.images import FeatureProtocol
from pretrain.runtime.settings import Later


class SvmProtocol(FeatureProtocol):
    """One linear SVM a class on frozen features of a set with several labels an image (VOC07 classification).

    Squared hinge loss, L2 penalty, the dual problem, weight 1 for negatives and `positive_weight` for positives. Each
    class's C is the one with the best cross-validated AP on train; the SVM is then trained on all of train. An image
    whose label of a class is "difficult" is a negative in training (as in VISSL) and is left out of the AP.

    Attributes:
        costs: the grid of C.
        folds: of the cross-validation, stratified by the class's label.
        positive_weight: weight of positive images' losses.
        max_iterations: of liblinear.
        l2_normalize: features are scaled to length 1 first.
        pool_px: the last feature map is averaged over windows of so many positions a side at stride 1, and all means
            are the features (6 makes 2x2 of a ResNet-50's 7x7: 8192). None: the backbone's own pooled output.
        average_precision: what `mAP` and the classes' APs are: the area under the precision-recall curve, or VOC2007's
            mean over eleven recalls. The mean by the other is reported beside it.
    """

    costs: tuple[float, ...] = Field(min_length=1)
    folds: int = Field(default=3, ge=2)
    positive_weight: float = Field(default=2.0, gt=0)
    max_iterations: int = Field(default=2000, ge=1)
    l2_normalize: bool = True
    pool_px: Annotated[int | None, Later(before=None)] = Field(default=None, ge=1)
    average_precision: Annotated[Literal["area", "eleven_point"], Later(before="eleven_point")] = "area"

    @field_validator("costs")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(cost <= 0 for cost in value):
            raise ValueError("every cost must be above 0")
        return value


_MMSELFSUP_COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))

PROTOCOLS: dict[str, SvmProtocol] = {
    "vissl": SvmProtocol(
        name="vissl",
        source="facebookresearch/vissl configs/config/benchmark/linear_image_classification/voc07/"
        "eval_resnet_8gpu_transfer_voc07_svm.yaml: squared hinge, dual, class weight 1:2, 2000 iterations, "
        "L2-normalised features of AvgPool2d(6, stride 1) of res5 (8192), 3 folds, 11 values of C",
        sources={
            "interpolation": "torchvision's Resize default in its transform",
            "resize": "the file squeezes the resized image into 224x224; here it is the centre crop",
        },
        pool_px=6,
        costs=(0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0),
        interpolation="bilinear",
    ),
    "mmselfsup": SvmProtocol(
        name="mmselfsup",
        source="open-mmlab/mmselfsup tools/benchmarks/classification/svm_voc07/eval_svm_full.sh (C 1, 10, 100), "
        "svm_helper.py parse_cost_list (and 0.5^4 to 0.5^19), MultiPooling 'specified' (6x6, stride 1)",
        pool_px=6,
        costs=_MMSELFSUP_COSTS,
        interpolation="bilinear",
    ),
    "pooled": SvmProtocol(
        name="pooled",
        source="this project: `mmselfsup` on the backbone's own pooled output, which every backbone has",
        costs=_MMSELFSUP_COSTS,
        interpolation="bilinear",
    ),
}
DEFAULT = "pooled"
