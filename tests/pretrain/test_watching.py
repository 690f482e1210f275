"""What a run tells of itself: online kNN, collapse, a loss that is not finite, and the curves."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from pretrain.backbones import registry
from pretrain.backbones.contract import Backbone
from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.data.images import ImageSet, Source
from pretrain.monitor import OnlineKnn
from pretrain.runtime.curves import read_curves
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.state import StateStore
from pretrain.train import train
from pretrain.views.settings import SHAPES

CPU = torch.device("cpu")
TINY_VIEWS = SHAPES.model_copy(update={"size": 16})


class Pixels(Backbone):
    """The image at 4x4 as features."""

    name, width, stride = "pixels", 48, 4

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def shapes(count: int, size: int = 16) -> ImageSet:
    return Catalog({"s": ShapesEntry(format="shapes", size=size, train=count)}).images("s", "train")


def slow_knn(watch: OnlineKnn, backbone: Backbone) -> float:
    """DINO's weighted vote among 20 neighbours (eval_knn.py), image by image in float64."""

    def unit(images: ImageSet) -> list[np.ndarray]:
        features = [backbone(watch.transform(images.decode(i))[None]).double().numpy()[0] for i in range(len(images))]
        return [feature / math.sqrt((feature**2).sum()) for feature in features]

    bank, right = unit(watch.reference), 0
    for query, label in zip(unit(watch.queries), watch.queries.labels, strict=True):
        similarity = [float(query @ other) for other in bank]
        nearest = sorted(range(len(bank)), key=lambda i: -similarity[i])[:20]
        votes = dict.fromkeys(range(len(watch.reference.classes)), 0.0)
        for i in nearest:
            votes[int(watch.reference.labels[i])] += math.exp(similarity[i] / 0.07)
        right += max(votes, key=lambda name: votes[name]) == label
    return 100 * right / len(watch.queries)


def test_online_knn_equals_the_slow_vote():
    watch = OnlineKnn(shapes(300), TINY_VIEWS, CPU, seed=0)
    assert (len(watch.queries), len(watch.reference)) == (30, 270)
    assert watch.measure(Pixels()) == pytest.approx(slow_knn(watch, Pixels()))
    assert 100 / 30 < watch.measure(Pixels()) < 100  # neither nothing nor everything


def test_online_knn_of_a_perfect_backbone_is_100_percent_and_leaves_no_trace():
    images = shapes(120)
    watch = OnlineKnn(images, TINY_VIEWS, CPU, seed=1)

    class Oracle(Pixels):
        """Knows the label of the image it is shown, by the order in which images come."""

        def forward(self, batch):
            given = self.labels[: len(batch)]
            self.labels = self.labels[len(batch) :]
            return torch.nn.functional.one_hot(torch.from_numpy(given), len(images.classes)).float()

    oracle = Oracle()
    oracle.labels = np.concatenate([watch.reference.labels, watch.queries.labels])
    assert watch.measure(oracle) == 100.0
    real = registry.build("cifar_resnet20").train()
    before = registry.fingerprint(real)
    watch.measure(real)
    assert real.training
    assert registry.fingerprint(real) == before


def test_online_knn_asks_for_labels():
    images = shapes(40)
    unlabelled = ImageSet(images._source, name="u", split="train", classes=("x",), labels=np.zeros(40, dtype=np.int64))
    with pytest.raises(InputError, match=r"online_knn_every needs one label of two or more an image; 'u' has none"):
        OnlineKnn(unlabelled, TINY_VIEWS, CPU, seed=0)


def test_curves_hold_what_is_watched_and_knn_every_n_epochs(small_recipe, tmp_path):
    recipe = small_recipe(epochs=4, online_knn_every=2, log_every_steps=5)
    train(recipe, shapes(40), seed=0, out=tmp_path, device=CPU)
    points = read_curves(tmp_path / "metrics.jsonl")
    knn = {point["step"]: point["online_knn_top1"] for point in points if "online_knn_top1" in point}
    assert list(knn) == [20, 40]  # ten steps an epoch
    assert all(0 <= value <= 100 for value in knn.values())
    watched = {"loss", "positive", "negative", "spread", "grad_norm", "lr", "epoch", "data_s", "step_s"}
    steps = [point["step"] for point in points if watched <= point.keys()]
    assert steps == list(range(5, 41, 5))
    assert list((tmp_path).glob("**/events.out.tfevents.*"))


class Gray(Source):
    """One gray image, again and again."""

    identity = "gray"

    def __len__(self) -> int:
        return 40

    def encoded(self, row: int) -> bytes:
        return b""

    def decode(self, row: int) -> np.ndarray:
        return np.full((16, 16, 3), 127, dtype=np.uint8)

    def where(self, row: int) -> str:
        return f"gray {row}"


def test_a_collapse_warns_once_the_first_epoch_is_over(small_recipe, tmp_path, caplog):
    images = ImageSet(Gray(), name="gray", split="train", classes=("a",), labels=np.zeros(40, dtype=np.int64))
    recipe = small_recipe(**{"epochs": 2, "views.jitter_p": 0.0, "views.gray_p": 0.0, "log_every_steps": 1})
    with caplog.at_level("WARNING", logger="fastmoco"):
        train(recipe, images, seed=0, out=tmp_path, device=CPU)
    told = re.findall(r"step (\d+): the keys' spread is (\S+): the embeddings are collapsing", caplog.text)
    assert [int(step) for step, _ in told] == list(range(11, 21))
    assert all(float(spread) < 0.01 for _, spread in told)


@pytest.mark.parametrize(("capability", "precision", "warns"), [
    ("AVX2", "bf16", True),
    ("AVX2", "float32", False),
    ("AVX512", "bf16", False),
    ("SVE256", "bf16", False),
])  # fmt: skip
def test_bf16_warns_where_the_processor_has_no_kernels_for_it(
    small_recipe, tmp_path, caplog, monkeypatch, capability, precision, warns
):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    with caplog.at_level("WARNING", logger="fastmoco"):
        train(small_recipe(epochs=2, precision=precision), shapes(16), seed=0, out=tmp_path, device=CPU)
    assert ("ten times as long as float32" in caplog.text) == warns


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_last_good_state(small_recipe, tmp_path):
    recipe = small_recipe(epochs=6, base_lr=1e30, clip_grad_norm=None, save_every_steps=1)
    with pytest.raises(RunFailedError, match=r"the loss is (nan|inf) at step \d+ of 60 \(epoch 1\)") as failure:
        train(recipe, shapes(40), seed=3, out=tmp_path, device=CPU)
    said = re.search(r"at step (\d+) of", str(failure.value))
    assert said is not None
    found = StateStore(tmp_path / "state").latest()
    assert found is not None
    step, state = found
    assert step == int(said[1]) - 1
    assert all(value.isfinite().all() for value in state["model"].values())
    assert not (tmp_path / "backbone.safetensors").exists()
