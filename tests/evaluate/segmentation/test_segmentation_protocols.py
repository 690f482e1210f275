"""Every preset against the published configs (mmsegmentation ships its own) and against the paper's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluate import task
from evaluate.protocols.detection import PROTOCOLS as DETECTION
from evaluate.protocols.segmentation import DEFAULT, PROTOCOLS
from evaluate.protocols.segmentor import SegmentationProtocol
from evaluate.segmentation import library, models
from evaluate.segmentation.geometry import Geometry
from pretrain.backbones.handover import BackboneMetadata
from pretrain.runtime.errors import InputError

R50 = ([256, 512, 1024, 2048], "resnet50")
R18 = ([64, 128, 256, 512], "resnet18")


def published(name: str) -> Any:
    library.load()
    import mmseg
    from mmengine.config import Config

    return Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / name)


def ours(name: str, trunk: tuple[list[int], str], classes: int) -> dict[str, Any]:
    protocol = PROTOCOLS[name]
    metadata = BackboneMetadata(backbone=trunk[1], method="test")
    return models.segmentor_config(protocol, Geometry.of(protocol, 1000), metadata, trunk[0], classes)


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        return {k: v for key, value in values.items() for k, v in flat(value, f"{prefix}.{key}").items()}
    return {prefix: tuple(values) if isinstance(values, list) else values}


# What the plain ResNet changes, by design.
WRITTEN_APART = {".backbone.type", ".pretrained", ".backbone.init_cfg", ".backbone.frozen_stages"}


@pytest.mark.parametrize(
    ("name", "config", "trunk"),
    [
        ("voc12aug_fcn_20k", "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py", R50),
        ("cityscapes_fcn_40k", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-769x769.py", R50),
        ("cityscapes_fcn_40k", "fcn/fcn_r18-d8_4xb2-80k_cityscapes-769x769.py", R18),
        ("ade20k_fcn_160k", "fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512.py", R50),
        ("ade20k_upernet_160k", "upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", R50),
        ("ade20k_upernet_160k", "upernet/upernet_r18_4xb4-160k_ade20k-512x512.py", R18),
        ("voc12aug_deeplabv3plus_20k", "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-20k_voc12aug-512x512.py", R50),
        ("cityscapes_deeplabv3plus_40k", "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-769x769.py", R50),
        ("cityscapes_deeplabv3plus_40k", "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-769x769.py", R18),
    ],
)
def test_model_and_schedule_are_mmsegmentations_but_for_the_stem(name: str, config: str, trunk: Any):
    protocol, theirs = PROTOCOLS[name], published(config)
    here = flat(ours(name, trunk, theirs.model.decode_head.num_classes))
    there = flat(theirs.model.to_dict())
    for key, value in there.items():
        if key in WRITTEN_APART:
            continue
        if key.endswith("norm_cfg.type"):
            assert (value, here[key]) == ("SyncBN", "BN")
        elif key == ".data_preprocessor.type":
            assert here[key] == f"mmseg.{value}"
        elif isinstance(value, tuple) and key.startswith(".data_preprocessor.") and "size" not in key:
            assert here[key] == pytest.approx(value)
        elif value != {}:
            assert here[key] == value, key
    assert here[".backbone.type"] == "ResNet"
    assert here.keys() - there.keys() <= WRITTEN_APART | {
        *(f".{head}.ignore_index" for head in ("decode_head", "auxiliary_head")),
        ".decode_head.dilation",  # 1, the default
        ".data_preprocessor.size",  # mmsegmentation's r18 UPerNet leaves it out
    }

    optimizer = theirs.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
        *("SGD", protocol.base_lr, protocol.momentum),
        protocol.weight_decay,
    )
    poly = theirs.param_scheduler[0]
    assert (poly.type, poly.power, poly.eta_min) == ("PolyLR", protocol.poly_power, protocol.min_lr)
    if trunk is R50:
        assert poly.end == theirs.train_cfg.max_iters == protocol.iterations
        assert theirs.train_cfg.val_interval == protocol.evaluate_every
    gpus = int(config.split("xb")[0][-1])
    assert gpus * theirs.train_dataloader.batch_size == protocol.global_batch_size == protocol.reference_batch

    steps = {step.type: step for step in theirs.train_pipeline}
    assert tuple(steps["RandomResize"].scale) == protocol.scale
    assert tuple(steps["RandomResize"].ratio_range) == protocol.scale_ratio
    assert tuple(steps["RandomCrop"].crop_size) == (protocol.crop, protocol.crop)
    assert steps["RandomCrop"].cat_max_ratio == protocol.cat_max_ratio
    assert steps["RandomFlip"].prob == protocol.flip_p
    assert ("PhotoMetricDistortion" in steps) == protocol.photometric
    assert tuple(next(s for s in theirs.test_pipeline if s.type == "Resize").scale) == protocol.test_scale


@pytest.mark.parametrize(
    ("name", "crop", "lr", "iterations"),
    [("voc12aug_fcn_30k", 513, 0.003, 30_000), ("cityscapes_fcn_90k", 769, 0.01, 90_000)],
)
def test_mocos_protocol_is_the_appendixs(name: str, crop: int, lr: float, iterations: int):
    protocol = PROTOCOLS[name]
    assert (protocol.crop, protocol.base_lr, protocol.iterations) == (crop, lr, iterations)
    assert (protocol.global_batch_size, protocol.weight_decay, protocol.scale_ratio) == (16, 1e-4, (0.5, 2.0))
    assert protocol.lr_at(0) == lr
    for part, factor in ((0.6999, 1), (0.7, 0.1), (0.8999, 0.1), (0.9, 0.01), (0.9999, 0.01)):
        assert protocol.lr_at(round(part * iterations)) == pytest.approx(lr * factor)
    config = ours(name, R50, 21)
    assert config["auxiliary_head"] is None
    assert config["backbone"]["strides"] == (1, 2, 2, 1)  # stride 16
    assert config["backbone"]["dilations"] == (1, 1, 1, 2)
    head = config["decode_head"]
    assert (head["num_convs"], head["channels"], head["dilation"], head["concat_input"]) == (2, 256, 6, False)
    assert (protocol.test_mode, protocol.test_scale) == ("whole", None)


def test_the_linear_probe_is_dinov2s():
    protocol = PROTOCOLS["linear"]
    config = ours("linear", R50, 150)
    assert config["decode_head"]["type"] == "FastMocoLinearHead"
    assert config["backbone"]["frozen_stages"] == 4
    assert config["auxiliary_head"] is None
    assert config["test_cfg"] == {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
    assert (protocol.optimizer, protocol.lr(), protocol.weight_decay, protocol.betas) == (
        "adamw",
        1e-3,
        1e-4,
        (0.9, 0.999),
    )
    assert (protocol.iterations, protocol.global_batch_size) == (40_000, 16)
    assert protocol.lr_at(0) == pytest.approx(1e-9)
    assert protocol.lr_at(750) == pytest.approx(1e-3 * (1 - 750 / 40_000) * 0.5, rel=1e-5)
    assert protocol.lr_at(20_000) == pytest.approx(5e-4)


def test_poly_is_mmengines_schedule_which_ends_a_step_early():
    import torch

    library.load()
    from mmengine.optim import PolyLR

    protocol = PROTOCOLS["voc12aug_fcn_20k"].override({"iterations": 40})
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=protocol.lr())
    schedule = PolyLR(optimizer, eta_min=1e-4, power=0.9, begin=0, end=41, by_epoch=False)
    for step in range(40):
        assert protocol.lr_at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_every_name_of_the_issue_is_there_with_its_source():
    assert {
        *("voc12aug_fcn_20k", "voc12aug_fcn_30k", "cityscapes_fcn_40k", "cityscapes_fcn_90k", "ade20k_fcn_160k"),
        *("ade20k_upernet_160k", "voc12aug_deeplabv3plus_20k", "linear", "smoke"),
    } <= PROTOCOLS.keys()
    assert all(name == protocol.name and protocol.source for name, protocol in PROTOCOLS.items())
    assert task.resolve_protocol("segmentation", None).name == DEFAULT
    assert (
        set().union(*(protocol.sources for protocol in PROTOCOLS.values())) <= SegmentationProtocol.model_fields.keys()
    )


def test_iterations_follow_batch_and_budget_unless_they_are_given():
    """A quarter of the batch saw a quarter of the images, and lost 7 mIoU."""
    voc = PROTOCOLS["voc12aug_fcn_20k"]
    quarter = voc.override({"global_batch_size": 4})
    assert (quarter.iterations, quarter.evaluate_every, quarter.lr()) == (80_000, 8000, 0.0025)
    assert quarter.iterations * quarter.global_batch_size == voc.iterations * voc.global_batch_size
    assert voc.override({"global_batch_size": 4, "iterations": 20_000}).iterations == 20_000
    assert quarter.override({"pictures": 2}).iterations == 80_000
    probe = PROTOCOLS["linear"]
    trial = probe.override({"budget": 0.01})
    assert (trial.iterations, trial.warmup_iterations) == (probe.iterations // 100, probe.warmup_iterations // 100)
    assert trial.lr() == probe.lr()
    both = probe.override({"budget": "0.01", "global_batch_size": "8"})
    assert (both.iterations, both.warmup_iterations) == (probe.iterations // 50, probe.warmup_iterations // 50)
    # Few iterations alone leave the warm-up as it is, so that one longer than them is still refused.
    with pytest.raises(InputError, match="warmup_iterations 1500 must be fewer than iterations 100"):
        probe.override({"iterations": 100})


def test_fields_added_later_leave_run_ids_alone():
    for protocol in (PROTOCOLS["voc12aug_fcn_20k"], DETECTION["voc0712_r50_c4_24k"]):
        kept = type(protocol).identity_of(protocol.model_dump(mode="json"))
        assert not {"main", "budget"} & kept.keys()
        shorter = type(protocol).identity_of(protocol.override({"budget": 0.5}).model_dump(mode="json"))
        assert shorter["budget"] == 0.5


def test_a_budget_shortens_a_detectors_schedule_and_leaves_its_lr():
    whole = DETECTION["voc0712_r50_c4_24k"]
    short = whole.override({"budget": 0.01})
    schedule = short.schedule()
    assert (schedule.max_iter, schedule.steps, schedule.warmup_iters, schedule.lr) == (240, (180, 220), 1, 0.02)
    assert (whole.statistics_batches(), short.statistics_batches()) == (200, 2)
    assert short.override({"global_batch_size": 4}).schedule().max_iter == 960


def test_lr_follows_the_batch_by_the_protocols_rule():
    half = PROTOCOLS["voc12aug_fcn_20k"].override({"global_batch_size": 8})
    assert half.lr_at(0) == pytest.approx(0.005)
    assert PROTOCOLS["linear"].override({"global_batch_size": 8}).lr() == 1e-3


@pytest.mark.parametrize(
    ("name", "short_side", "crop", "scale", "stride"),
    [
        ("voc12aug_fcn_20k", 375, 512, (2048, 512), 341),  # VOC itself is not small
        ("voc12aug_fcn_20k", 256, 256, (1024, 256), 165),
        ("voc12aug_fcn_20k", 128, 128, (512, 128), 85),
        ("cityscapes_fcn_40k", 1024, 769, (2049, 1025), 513),
        ("cityscapes_fcn_40k", 360, 265, (720, 360), 177),
        ("cityscapes_fcn_90k", 128, 121, None, 53),
        ("voc12aug_fcn_20k", 8, 32, (32, 8), 37),
    ],
)
def test_lengths_shrink_for_small_images_and_keep_their_remainder_by_8(
    name: str, short_side: float, crop: int, scale: tuple[int, int] | None, stride: int
):
    geometry = Geometry.of(PROTOCOLS[name], short_side)
    assert (geometry.crop, geometry.scale, geometry.slide_stride) == (crop, scale, stride)
    assert geometry.crop % 8 == PROTOCOLS[name].crop % 8
    assert geometry.test_scale == scale
    off = Geometry.of(PROTOCOLS[name].override({"shrink": False}), short_side)
    assert (off.crop, off.factor) == (PROTOCOLS[name].crop, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trunk": "frozen"}, "a frozen trunk goes with head 'linear'"),
        ({"head": "linear"}, "no auxiliary head"),
        ({"scale": [100, 200]}, r"scale is \(long, short\)"),
        ({"scale_ratio": [2.0, 0.5]}, "scale_ratio must rise"),
        ({"step_at": [1.5]}, "step_at holds parts"),
        ({"warmup_iterations": 20_000}, "fewer than iterations 20000"),
        ({"croop": 3}, "did you mean 'crop'"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        PROTOCOLS["voc12aug_fcn_20k"].override(changes)
