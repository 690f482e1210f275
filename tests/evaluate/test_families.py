"""A ViT, a ConvNeXt and a Swin go through the classification tasks at any image size, and the row says which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluate import task
from evaluate.checkpoints.load import load_backbone
from evaluate.task import Job
from pretrain.data.catalog import Catalog, Entry
from pretrain.data.images import ImageSet
from pretrain.runtime.errors import InputError

pytest.importorskip("timm")

VIT = "timm:vit_tiny_patch16_224,depth=2,embed_dim=24,num_heads=2"
DINO2 = "timm:vit_small_patch14_dinov2,depth=2,embed_dim=24,num_heads=2,img_size=70"
CONVNEXT = "timm:convnext_atto,depths=[1,1,1,1],dims=[8,8,8,16]"
SWIN = "timm:swin_tiny_patch4_window7_224,depths=[1,1,1,1],embed_dim=8,num_heads=[1,1,1,1]"
TRAINED = {"global_batch_size": 24, "epochs": 1, "bn": "eval"}
TASKS: dict[str, tuple[str | None, dict[str, object]]] = {
    "knn": (None, {"k": 3, "also_k": []}),
    "linear": ("sweep", {"epochs": 2, "min_steps": 1, "lrs": [0.1]}),
    "logreg": (None, {"grid_size": 2, "max_iterations": 5}),
    "svm": (None, {"costs": [1.0], "folds": 2}),
    "semi": ("barlow_twins", {**TRAINED, "percent": 10, "global_batch_size": 3}),
    "finetune": (None, TRAINED),
}


class SeveralLabels(Catalog):
    """The same sets, each image of two classes."""

    def __init__(self, catalog: Catalog) -> None:
        self.inner = catalog

    def entry(self, name: str) -> Entry:
        return self.inner.entry(name)

    def images(self, name: str, split: str) -> ImageSet:
        found = self.inner.images(name, split)
        each = np.eye(len(found.classes), dtype=bool)
        labels = each[found.labels] | each[(found.labels + 1) % len(found.classes)]
        return ImageSet(found._source, name=name, split=split, classes=found.classes, labels=labels)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Generated sets of images of 32 and of 40 pixels, no multiple of 16 or 14."""
    path = tmp_path_factory.mktemp("families") / "catalog.yaml"
    lines = [f"shapes{side}: {{format: shapes, size: {side}, train: 60, test: 12}}" for side in (32, 40)]
    path.write_text("\n".join(lines) + "\n")
    return Catalog.load(path)


@pytest.mark.parametrize("backbone", [VIT, DINO2, CONVNEXT, SWIN], ids=["vit", "dinov2", "convnext", "swin"])
@pytest.mark.parametrize("name", TASKS)
def test_every_task_at_small_sizes(make_job: Callable[..., Job], catalog: Catalog, name: str, backbone: str) -> None:
    protocol, changes = TASKS[name]
    side = 40 if name in ("knn", "finetune") else 32
    if name == "svm":
        catalog = SeveralLabels(catalog)
    loaded = load_backbone(f"random:{backbone}")
    job = make_job(name, protocol, changes, catalog=catalog, backbone=loaded, data=f"shapes{side}")
    rows = task.run(name, job)
    assert 0 <= rows[0].value <= 100
    patch = loaded.module.patch
    assert job.told["input"]["crop_px"] == -(-side // patch) * patch


def test_padding_stands_in_the_row(make_job: Callable[..., Job], catalog: Catalog) -> None:
    told = {}
    for way in ("resize", "pad"):
        changes = {**TASKS["knn"][1], "off_patch": way}
        job = make_job("knn", None, changes, catalog=catalog, backbone=load_backbone(f"random:{VIT}"), data="shapes40")
        task.run("knn", job)
        told[way] = {key: job.told["input"].get(key) for key in ("crop_px", "wanted_px", "padded_to_px")}
    assert told == {
        "resize": {"crop_px": 48, "wanted_px": 40, "padded_to_px": None},
        "pad": {"crop_px": 40, "wanted_px": None, "padded_to_px": 48},
    }


def test_images_below_one_patch_are_refused(make_job: Callable[..., Job]) -> None:
    job = make_job("knn", None, TASKS["knn"][1], backbone=load_backbone(f"random:{VIT}"))
    with pytest.raises(InputError, match=r"images of 8 px are smaller than one patch .* at least 16 px .*=0 resizes"):
        task.run("knn", job)


@pytest.mark.parametrize(
    ("tokens", "layers", "norm", "width"),
    [("class", 1, True, 24), ("mean", 1, False, 24), ("both", 2, True, 96), ("pooled", 2, True, 48)],
)
def test_what_is_seen_of_a_vit(
    make_job: Callable[..., Job], catalog: Catalog, tokens: str, layers: int, norm: bool, width: int
) -> None:
    changes = {**TASKS["knn"][1], "tokens": tokens, "layers": layers, "norm": norm}
    job = make_job("knn", None, changes, catalog=catalog, backbone=load_backbone(f"random:{VIT}"), data="shapes32")
    task.run("knn", job)
    assert {np.load(path, mmap_mode="r").shape[1] for path in job.cache.rglob("*.npy")} == {width}
    job = make_job(
        "knn",
        None,
        {**changes, "tokens": "class"},
        catalog=catalog,
        data="shapes32",
        backbone=load_backbone(f"random:{SWIN}"),
    )
    with pytest.raises(InputError, match=r"tokens is 'class', but backbone 'timm:swin.*' has no class token"):
        task.run("knn", job)
