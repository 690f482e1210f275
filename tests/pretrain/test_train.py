"""The loop: killed runs end in the bits of undisturbed ones; wrong input is one sentence."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.backbones.handover import read_backbone
from pretrain.data.catalog import Catalog
from pretrain.recipe import Recipe
from pretrain.runtime.curves import read_curves
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.train import learning_rates, train

CPU = torch.device("cpu")

SCRIPT = """
import importlib.util, sys
from pathlib import Path
import cv2
cv2.setNumThreads(1)
from pretrain.data.catalog import Catalog
from pretrain.recipe import Recipe
spec = importlib.util.spec_from_file_location("kill_worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
folder = Path(sys.argv[2])
images = Catalog.load(folder / "catalog.yaml").images("tiny", "train")
recipe = Recipe.model_validate_json((folder / "recipe.json").read_text())
worker.main(images, recipe, folder / "killed", kills=int(sys.argv[3]), signum=int(sys.argv[4]), seed=int(sys.argv[5]))
"""


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "catalog.yaml").write_text("tiny: {format: shapes, size: 16, train: 40, test: 20, seed: 0}\n")
    return Catalog.load(tmp_path / "catalog.yaml").images("tiny", "train")


@pytest.mark.long
@pytest.mark.parametrize(("signum", "kills"), [(signal.SIGKILL, 20), (signal.SIGTERM, 4), (signal.SIGUSR2, 4)])
def test_a_killed_run_ends_in_the_same_bits(small_recipe, tiny, tmp_path, signum, kills):
    recipe = small_recipe(epochs=10, save_every_steps=2, log_every_steps=1)
    undisturbed = train(recipe, tiny, seed=5, out=tmp_path / "whole", device=CPU)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    worker = str(Path(__file__).with_name("kill_worker.py"))
    command = [sys.executable, "-c", SCRIPT, worker, str(tmp_path), str(kills), str(int(signum)), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    assert (tmp_path / "killed" / "backbone.safetensors").read_bytes() == undisturbed.backbone_path.read_bytes()
    steps = [point["step"] for point in read_curves(tmp_path / "killed" / "metrics.jsonl")]
    assert steps == list(range(1, 101)), done.stdout


def test_what_is_handed_on(small_recipe, tiny, tmp_path):
    recipe = small_recipe(epochs=2, keep_epochs=(1,))
    result = train(recipe, tiny, seed=3, out=tmp_path / "out", device=CPU)
    tensors, metadata = read_backbone(result.backbone_path)
    assert (metadata.backbone, metadata.method, metadata.epoch, metadata.step) == ("cifar_resnet20", "fast_moco", 2, 20)
    assert metadata.normalization.mean == pytest.approx(recipe.views.mean)
    assert "conv1.weight" in tensors
    assert not any(name.startswith(("fc", "momentum")) for name in tensors)
    kept, then = read_backbone(tmp_path / "out" / "checkpoints" / "epoch_0001.safetensors")
    assert then.epoch == 1
    assert not torch.equal(kept["conv1.weight"], tensors["conv1.weight"])
    assert result.metrics["loss"] > 0


def test_another_recipe_may_not_resume(small_recipe, tiny, tmp_path):
    train(small_recipe(epochs=2), tiny, seed=3, out=tmp_path, device=CPU)
    with pytest.raises(InputError, match=r"made with temperature 0\.2, now it is 0\.5; keep the recipe"):
        train(small_recipe(epochs=2, temperature=0.5), tiny, seed=3, out=tmp_path, device=CPU)
    with pytest.raises(InputError, match="made with seed 3, now it is 4"):
        train(small_recipe(epochs=2), tiny, seed=4, out=tmp_path, device=CPU)
    with pytest.raises(InputError, match="holds a state of step 20"):
        train(small_recipe(epochs=2), tiny, seed=3, out=tmp_path, device=CPU, resume=False)


def test_a_loss_that_is_not_finite_stops_with_its_step(small_recipe, tiny, tmp_path):
    with pytest.raises(RunFailedError, match=r"the loss is (nan|inf) at step \d+ of 60 \(epoch \d\)"):
        train(small_recipe(epochs=6, base_lr=1e30, clip_grad_norm=None), tiny, seed=3, out=tmp_path, device=CPU)


@pytest.mark.parametrize(("changes", "message"), [
    ({"global_batch_size": 64}, "global_batch_size is 64, but there are only 40 images to train on"),
    ({"train_images": 50}, "train_images is 50, but 'tiny' has 40"),
    ({"micro_batch_size": 3}, "micro_batch_size is 3, expected a divisor of a rank's batch, 4"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_is_written(small_recipe, tiny, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(small_recipe(epochs=2, **changes), tiny, seed=3, out=tmp_path / "out", device=CPU)
    assert not (tmp_path / "out").exists()


def test_learning_rates_of_the_published_recipe():
    from pretrain.recipes import RECIPES

    recipe: Recipe = RECIPES["r50_e100"]
    total = 100 * 2502
    assert learning_rates(recipe, 0, total) == {"encoder": pytest.approx(0.025), "predictor": pytest.approx(0.1)}
    assert learning_rates(recipe, 2502, total)["encoder"] == pytest.approx(0.1)
    assert learning_rates(recipe, 1251, total)["encoder"] == pytest.approx(0.0625)
    halfway = 2502 + (total - 2502) // 2
    assert learning_rates(recipe, halfway, total) == {"encoder": pytest.approx(0.05), "predictor": pytest.approx(0.1)}
    assert RECIPES["moco_v3_r50_e100"].lr == pytest.approx(0.6 * 4096 / 256)
