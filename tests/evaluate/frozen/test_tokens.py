"""What probes see of a ViT: class tokens of the last blocks, the mean of the patch tokens; all heads of DINOv2."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from evaluate import task
from evaluate.checkpoints.load import LoadedBackbone
from evaluate.frozen.representation import Sees, represent_many
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata
from pretrain.backbones.registry import TimmBackbone
from pretrain.runtime.errors import InputError


@pytest.fixture
def vit() -> LoadedBackbone:
    """Four blocks of width 24 on images of 8 pixels."""
    torch.manual_seed(0)
    module = TimmBackbone(
        "timm:vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=24, depth=4, num_heads=2, mlp_ratio=2
    )
    module = module.eval().requires_grad_(False)
    metadata = BackboneMetadata(backbone="timm:vit_tiny_patch16_224", method="test")
    return LoadedBackbone(module, metadata, "random:vit", registry.fingerprint(module), "random")


def test_tokens_by_hand(vit: LoadedBackbone) -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = vit.module.model
    with torch.no_grad():
        x = model._pos_embed(model.patch_embed(images))
        tokens = []
        for block in model.blocks:
            x = block(x)
            tokens.append(model.norm(x))
        one, four, averaged = represent_many(vit.module, images, [Sees(), Sees(4), Sees(2, True)])
    torch.testing.assert_close(one, tokens[-1][:, 0])
    torch.testing.assert_close(four, torch.cat([each[:, 0] for each in tokens], dim=1))
    by_hand = [tokens[-2][:, 0], tokens[-1][:, 0], tokens[-1][:, 1:].mean(dim=1)]
    torch.testing.assert_close(averaged, torch.cat(by_hand, dim=1))


def test_dinov2_trains_a_head_for_each_lr_depth_and_average(make_job, vit: LoadedBackbone) -> None:
    changes: dict[str, object] = {"global_batch_size": 54, "epochs": 2, "steps_per_epoch": 4}
    job = make_job("linear", "dinov2", changes, backbone=vit)
    rows = task.run("linear", job)
    told = json.loads((job.out / "classifiers.json").read_text())
    seen = {(one["layers"], one["patch_average"], one["base_lr"]) for one in told["tried"]}
    assert len(told["tried"]) == len(seen) == 13 * 2 * 2
    chosen = told["tried"][told["chosen"]]
    assert chosen["held_out_score"] == max(one["held_out_score"] for one in told["tried"])
    assert rows[0].detail == {**chosen, "refit": False}
    width = 24 * (chosen["layers"] + chosen["patch_average"])
    assert load_file(job.out / "head.safetensors")["weight"].shape == (3, width)


def test_dino_reads_four_blocks_and_knn_one(make_job, vit: LoadedBackbone) -> None:
    job = make_job("linear", "dino", {"global_batch_size": 60, "epochs": 1}, backbone=vit)
    task.run("linear", job)
    assert load_file(job.out / "head.safetensors")["weight"].shape == (3, 4 * 24)
    task.run("knn", make_job("knn", None, {"layers": 2, "patch_average": True}, backbone=vit))
    widths = sorted(np.load(path, mmap_mode="r").shape[1] for path in job.cache.rglob("*.npy"))
    assert widths == [3 * 24, 3 * 24, 4 * 24]  # train and test of knn, test of dino
    with pytest.raises(InputError, match=r"layers is 9, but backbone 'timm:vit_tiny_patch16_224' has only 4"):
        task.run("knn", make_job("knn", None, {"layers": 9}, backbone=vit))
