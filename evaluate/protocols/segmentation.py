"""The named segmentation protocols. Each number carries its source.

mmsegmentation's own configs name a ResNetV1c trunk, whose stem of three convolutions no self-supervised ResNet has;
every protocol here puts the plain ResNet in its place, as mmselfsup 0.x did.
"""

from __future__ import annotations

from evaluate.protocols.segmentor import SegmentationProtocol

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
