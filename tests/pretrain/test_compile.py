"""A compiled step is the same step, and a compiled run goes on from its state."""

from __future__ import annotations

import shutil

import pytest
import torch

from pretrain.backbones import registry
from pretrain.backbones.handover import read_backbone
from pretrain.data.catalog import Catalog
from pretrain.model import build_model, compiled
from pretrain.runtime.distributed import ALONE
from pretrain.step import accumulate_gradients
from pretrain.train import train

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler: there is no g++"
)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> str:
    """A ResNet-8, since what is compiled costs a second or more a layer."""
    monkeypatch.setattr(registry, "_CIFAR_DEPTHS", (8,))
    return "cifar_resnet8"


def test_a_compiled_step_gives_the_same_loss_and_gradients(small_recipe, shallow: str) -> None:
    # aot_eager traces forward and backward as inductor does, and leaves out the C++ that the next test compiles.
    recipe = small_recipe(global_batch_size=6, backbone=shallow)
    views = [torch.randn(6, 3, 16, 16, dtype=torch.float64) for _ in range(2)]
    found = []
    for compile_ in (False, True):
        core = build_model(recipe, 3, CPU, ALONE).double()
        model = compiled(core, backend="aot_eager") if compile_ else core
        figures = accumulate_gradients(model, views, momentum=0.9)
        found.append((figures, dict(core.named_parameters()), core.state_dict()))
    (plain, weights, state), (other, other_weights, other_state) = found
    torch.testing.assert_close(torch.stack(list(other)), torch.stack(list(plain)), rtol=1e-10, atol=1e-10)
    assert weights.keys() == other_weights.keys()
    for name, parameter in weights.items():
        if parameter.grad is not None:
            torch.testing.assert_close(other_weights[name].grad, parameter.grad, rtol=1e-8, atol=1e-10, msg=name)
    assert state.keys() == other_state.keys()
    for name, tensor in state.items():  # batch norm's buffers and the momentum encoder
        torch.testing.assert_close(other_state[name], tensor, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.long
@needs_compiler
def test_a_compiled_run_goes_on_from_its_state(small_recipe, shallow: str, tmp_path) -> None:
    (tmp_path / "catalog.yaml").write_text("tiny: {format: shapes, size: 16, train: 40, test: 20, seed: 0}\n")
    images = Catalog.load(tmp_path / "catalog.yaml").images("tiny", "train")
    recipe = small_recipe(epochs=2, save_every_steps=10, compile=True, backbone=shallow)
    whole = train(recipe, images, seed=3, out=tmp_path / "run", device=CPU)
    expected, _ = read_backbone(whole.backbone_path)
    whole.backbone_path.unlink()
    *_, newest = sorted((tmp_path / "run" / "state").glob("step_*.pt"))
    newest.unlink()
    again = train(recipe, images, seed=3, out=tmp_path / "run", device=CPU)
    torch.testing.assert_close(read_backbone(again.backbone_path)[0], expected, rtol=0, atol=0)
