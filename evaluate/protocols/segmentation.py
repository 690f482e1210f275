"""The named segmentation protocols. Each number carries its source.

mmsegmentation's own configs name a ResNetV1c trunk, whose stem of three convolutions no self-supervised ResNet has;
every protocol here puts the plain ResNet in its place, as mmselfsup 0.x did.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from evaluate.protocols.base import LrRule, TaskProtocol, scaled_lr


class SegmentationProtocol(TaskProtocol):
    """Train a segmentation head, and the trunk below it unless it is frozen, then measure IoU on the test split.

    Lengths are in pixels and hold for images of the size the protocol was written for. For small images they shrink by
    one rule (`evaluate.segmentation.geometry`), unless `shrink` is off.

    Attributes:
        head: "fcn", "deeplabv3plus", "upernet", or "linear": batch norm and a 1x1 convolution on the last map.
        head_channels: width of the head on a Bottleneck trunk. Heads other than UPerNet get a quarter of it on a trunk
            of width 512 or less, as mmsegmentation's r18 configs have it; `aux_channels` likewise.
        head_convs, head_dilation, head_concat: 3x3 convolutions of the FCN head, their dilation, and whether their
            output is joined to their input before one more convolution.
        aux_weight: weight of the loss of a one-convolution FCN head on the last map but one; 0 means no such head.
        aux_channels: width of that head.
        dropout: channel dropout before the classifying 1x1 convolution.
        strides, dilations: of the trunk's four stages. The first block of a stage with dilation d has d / 2, as in
            torchvision and in mmsegmentation's `contract_dilation`.
        trunk: "finetune" trains it; "frozen" keeps weights and batch norm statistics, which is checked to the bit.
        scale: (long, short) side that an image is scaled to, with its proportions kept, before the ratio is drawn;
            None starts from the image's own size.
        scale_ratio: range of the random ratio.
        crop: side of the training crop.
        cat_max_ratio: a crop of which one class fills more than this is drawn again, up to ten times; 1 turns it off.
        flip_p, photometric: horizontal flip; mmsegmentation's PhotoMetricDistortion.
        test_mode: "whole" image, or "slide" a window of side `crop` by `slide_stride` and average the logits.
        test_scale: (long, short) side at test time, None for the image's own size. Logits are brought to its own
            size before classes are read off, so IoU is always over the original pixels.
        align_corners: of every bilinear resizing of maps and logits.
        shrink: shrink lengths for small images.
        iterations: steps of the optimizer.
        global_batch_size: images a step, over all ranks.
        optimizer, base_lr, lr_rule, reference_batch, momentum, betas, weight_decay: `base_lr` is at `reference_batch`.
        schedule: "poly": (1 - t / T) ** poly_power from lr down to min_lr, as in mmcv 1.x, for which the sources were
            written (mmengine's PolyLR ends a step early); "step": times step_factor at each of
            `step_at`, parts of the whole.
        warmup_iterations: linear from `warmup_ratio` * lr.
        clip_norm: largest norm of the gradient; 0 leaves it alone.
        evaluate_every: iterations between measurements on the test split; 0 measures at the end alone. The final row
            is the last measurement, `best` the best of them.
        save_every: iterations between saved states.
        log_every: iterations between points of the curves.
        pictures: how many test images the sheet shows.
    """

    head: Literal["fcn", "deeplabv3plus", "upernet", "linear"]
    head_channels: int = Field(default=512, ge=1)
    head_convs: int = Field(default=2, ge=0)
    head_dilation: int = Field(default=1, ge=1)
    head_concat: bool = True
    aux_weight: float = Field(default=0.4, ge=0)
    aux_channels: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    strides: tuple[int, int, int, int] = (1, 2, 1, 1)
    dilations: tuple[int, int, int, int] = (1, 1, 2, 4)
    trunk: Literal["finetune", "frozen"] = "finetune"

    scale: tuple[int, int] | None = (2048, 512)
    scale_ratio: tuple[float, float] = (0.5, 2.0)
    crop: int = Field(default=512, ge=32)
    cat_max_ratio: float = Field(default=0.75, gt=0, le=1)
    flip_p: float = Field(default=0.5, ge=0, le=1)
    photometric: bool = True
    test_mode: Literal["whole", "slide"] = "whole"
    test_scale: tuple[int, int] | None = (2048, 512)
    slide_stride: int = Field(default=341, ge=1)
    align_corners: bool = False
    shrink: bool = True

    iterations: int = Field(ge=1)
    global_batch_size: int = Field(default=16, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    base_lr: float = Field(default=0.01, gt=0)
    lr_rule: LrRule = "linear"
    reference_batch: int = Field(default=16, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["poly", "step"] = "poly"
    poly_power: float = Field(default=0.9, gt=0)
    min_lr: float = Field(default=1e-4, ge=0)
    step_at: tuple[float, ...] = (0.7, 0.9)
    step_factor: float = Field(default=0.1, gt=0)
    warmup_iterations: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=1e-6, ge=0, le=1)
    clip_norm: float = Field(default=0.0, ge=0)

    evaluate_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=50, ge=1)
    pictures: int = Field(default=8, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.scale_ratio[0] <= 0 or self.scale_ratio[0] > self.scale_ratio[1]:
            raise ValueError(f"scale_ratio must rise from above 0, not {self.scale_ratio}")
        for name in ("scale", "test_scale"):
            sides = getattr(self, name)
            if sides is not None and not sides[0] >= sides[1] > 0:
                raise ValueError(f"{name} is (long, short) in pixels, not {sides}")
        if self.head == "linear" and self.aux_weight:
            raise ValueError("the linear probe has no auxiliary head: set aux_weight to 0")
        if self.trunk == "frozen" and self.head != "linear":
            raise ValueError("a frozen trunk goes with head 'linear'")
        if self.warmup_iterations >= self.iterations:
            raise ValueError(
                f"warmup_iterations {self.warmup_iterations} must be fewer than iterations {self.iterations}"
            )
        if any(not 0 < part < 1 for part in self.step_at):
            raise ValueError(f"step_at holds parts of the whole between 0 and 1, not {self.step_at}")
        return self

    def lr(self) -> float:
        """The lr at the top of the schedule, for this batch size."""
        return scaled_lr(self.base_lr, self.lr_rule, self.reference_batch, self.global_batch_size)

    def lr_at(self, step: int) -> float:
        """The lr of the optimizer's step `step`, counted from 0.

        With warm-up the schedule runs on below it, as mmcv's `warmup="linear"` does: the factor multiplies what the
        schedule says for that step.
        """
        lr, part = self.lr(), step / self.iterations
        if self.schedule == "poly":
            lr = (lr - self.min_lr) * (1 - part) ** self.poly_power + self.min_lr
        else:
            lr *= self.step_factor ** sum(part >= at for at in self.step_at)
        if step < self.warmup_iterations:
            lr *= 1 - (1 - step / self.warmup_iterations) * (1 - self.warmup_ratio)
        return lr


_MMS = "open-mmlab/mmselfsup configs/benchmarks/mmsegmentation"
_MMSEG = "open-mmlab/mmsegmentation 1.2.2 configs"
_MOCO = (
    "He et al. 2020 (MoCo), appendix, 'Implementation details: semantic segmentation'; no code was released (moco#55)"
)
_LR_RULE = "the source gives lr for its own batch only; the linear rule for other batches is this project's"
_SCHEDULES = {"lr_rule": _LR_RULE, "save_every": "this project", "pictures": "this project", "shrink": "this project"}
_MOCO_SOURCES = {
    **_SCHEDULES,
    "cat_max_ratio": "the paper says cropping and no more: 1, that is off",
    "photometric": "the paper names scaling, cropping and flipping alone",
    "momentum": "the paper does not say; 0.9 as everywhere in it",
    "dropout": "the paper does not say; 0",
}


def _moco(name: str, crop: int, iterations: int, base_lr: float) -> SegmentationProtocol:
    """MoCo's FCN: stride 16 (dilation 2 in the last stage alone), two 3x3 convolutions of 256, dilation 6, no aux."""
    return SegmentationProtocol(
        name=name,
        source=_MOCO,
        sources=_MOCO_SOURCES,
        head="fcn",
        head_channels=256,
        head_dilation=6,
        head_concat=False,
        aux_weight=0.0,
        dropout=0.0,
        strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
        scale=None,
        crop=crop,
        cat_max_ratio=1.0,
        photometric=False,
        test_scale=None,
        align_corners=True,
        iterations=iterations,
        base_lr=base_lr,
        weight_decay=1e-4,
        schedule="step",
    )


_VOC_20K = SegmentationProtocol(
    name="voc12aug_fcn_20k",
    source=f"{_MMS}/voc12aug/fcn_r50-d8_512x512_20k_voc12aug.py (the files DenseCL used; it reports mIoU 69.4, "
    "MoCo v2 67.5)",
    sources=_SCHEDULES,
    head="fcn",
    iterations=20_000,
    evaluate_every=2000,
)
_CITYSCAPES_40K = SegmentationProtocol(
    name="cityscapes_fcn_40k",
    source=f"{_MMS}/cityscapes/fcn_r50-d8_769x769_40k_cityscapes.py",
    sources=_SCHEDULES,
    head="fcn",
    scale=(2049, 1025),
    crop=769,
    test_mode="slide",
    test_scale=(2049, 1025),
    slide_stride=513,
    align_corners=True,
    iterations=40_000,
    global_batch_size=8,
    reference_batch=8,
    evaluate_every=4000,
)
_ADE20K_FCN = SegmentationProtocol(
    name="ade20k_fcn_160k",
    source=f"{_MMSEG}/fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py, plain ResNet (as OpenMixup uses it)",
    sources=_SCHEDULES,
    head="fcn",
    iterations=160_000,
    evaluate_every=16_000,
)


def _variant(base: SegmentationProtocol, name: str, source: str, **changes: object) -> SegmentationProtocol:
    return SegmentationProtocol.model_validate({**base.model_dump(), "name": name, "source": source, **changes})


_UPERNET: dict[str, object] = {"head": "upernet", "strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)}

# The cheap probe, as DINOv2's published heads were trained (their configs as kept by Jiawei-Yang/Denoising-ViT).
_LINEAR = SegmentationProtocol(
    name="linear",
    source="DINOv2's linear heads: Jiawei-Yang/Denoising-ViT evaluation/configs/vitb_voc2012_linear_config.py; "
    "dinov3 eval/segmentation/config.py has the same lr, iterations, batch 8 x 2 and windows 512 / 341",
    sources={
        **_SCHEDULES,
        "lr_rule": "the source gives one lr; it does not follow the batch",
        "strides": "the sources probe ViTs of stride 14 or 16; stride 8 is what the field's ResNet protocols have",
    },
    head="linear",
    aux_weight=0.0,
    dropout=0.0,
    trunk="frozen",
    test_mode="slide",
    slide_stride=341,
    iterations=40_000,
    optimizer="adamw",
    base_lr=1e-3,
    lr_rule="fixed",
    weight_decay=1e-4,
    poly_power=1.0,
    min_lr=0.0,
    warmup_iterations=1500,
)

# For a processor: stride 32, few pixels, mild augmentation, as there is no time for more to pay.
_SMALL: dict[str, object] = {
    "scale": (1024, 256),
    "crop": 256,
    "test_scale": (1024, 256),
    "slide_stride": 171,
    "scale_ratio": (0.8, 1.25),
    "cat_max_ratio": 1.0,
    "photometric": False,
    "strides": (1, 2, 2, 2),
    "dilations": (1, 1, 1, 1),
    "global_batch_size": 8,
    "warmup_iterations": 0,
    "evaluate_every": 0,
    "save_every": 50,
    "log_every": 10,
}
_SMALL_SOURCE = "this project: {} at a size that a laptop's processor trains in minutes; compare within it alone"

PROTOCOLS: dict[str, SegmentationProtocol] = {
    protocol.name: protocol
    for protocol in (
        _VOC_20K,
        _moco("voc12aug_fcn_30k", crop=513, iterations=30_000, base_lr=0.003),
        _CITYSCAPES_40K,
        _moco("cityscapes_fcn_90k", crop=769, iterations=90_000, base_lr=0.01),
        _ADE20K_FCN,
        _variant(
            _ADE20K_FCN,
            "ade20k_upernet_160k",
            f"{_MMSEG}/upernet/upernet_r50_4xb4-160k_ade20k-512x512.py, plain ResNet",
            **_UPERNET,
        ),
        _variant(
            _VOC_20K,
            "voc12aug_deeplabv3plus_20k",
            f"{_MMSEG}/deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py, plain ResNet",
            head="deeplabv3plus",
        ),
        _variant(
            _CITYSCAPES_40K,
            "cityscapes_deeplabv3plus_40k",
            f"{_MMSEG}/deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769.py, plain ResNet",
            head="deeplabv3plus",
        ),
        _LINEAR,
        # The lr rises with the shortness of the schedule, a two-hundredth of the probe's.
        _variant(
            _LINEAR,
            "smoke",
            _SMALL_SOURCE.format("`linear`"),
            **{**_SMALL, "crop": 128, "test_mode": "whole", "iterations": 200, "base_lr": 0.05},
        ),
        _variant(_VOC_20K, "fcn_small", _SMALL_SOURCE.format("`voc12aug_fcn_20k`"), **{**_SMALL, "iterations": 300}),
    )
}
DEFAULT = "linear"
