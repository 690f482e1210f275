"""Parts to build other projects' models of, with random weights, and what every file of theirs must pass."""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from rich.console import Console
from torch import Tensor, nn

from evaluate.checkpoints.inspect import Inspection, inspect_file
from evaluate.checkpoints.limits import MESSAGE_CHARACTERS
from evaluate.checkpoints.load import load_backbone
from evaluate.checkpoints.normalizations import PRESETS
from evaluate.checkpoints.show import show
from pretrain.runtime.errors import InputError


def draw(model: nn.Module, seed: int) -> nn.Module:
    """Every number drawn from the seed, statistics of trained batch norms included; features stay of moderate size."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(1000)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("weight", "running_var", "gamma")):
            tensor.uniform_(0.5, 1.0, generator=generator)
        else:
            tensor.normal_(0, 0.1, generator=generator)
    return model.eval()


class Peers:
    """Builds trees of modules; the same seed is the same network."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, int], nn.Module] = {}

    def resnet(self, seed: int, fc: nn.Module | None = None, name: str = "resnet18") -> nn.Module:
        """torchvision's ResNet with `fc` as its head, or without one."""
        if (name, seed) not in self.made:
            with torch.device("meta"):
                model = getattr(torchvision.models, name)()
            model.fc = nn.Identity()
            self.made[name, seed] = draw(model.to_empty(device="cpu"), seed)
        model = copy.deepcopy(self.made[name, seed])
        if fc is not None:
            model.fc = fc
        return model

    @staticmethod
    def mlp(*widths: int) -> nn.Sequential:
        """Linear layers with batch norm and ReLU between them: a projector or predictor."""
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        return nn.Sequential(*layers[:-2])

    @staticmethod
    def parts(modules: dict[str, nn.Module], **buffers: Tensor) -> nn.Module:
        """A module of these children and buffers."""
        whole = nn.Module()
        for name, module in modules.items():
            whole.add_module(name, module)
        for name, buffer in buffers.items():
            whole.register_buffer(name, buffer)
        return whole

    def parallel(self, model: nn.Module) -> nn.Module:
        """What DataParallel calls the parts of a model."""
        return self.parts({"module": model})

    @staticmethod
    def optimizer(model: nn.Module) -> dict[str, Any]:
        """The state of an optimizer that has done a step: tensors of the network's own shapes."""
        parameters = list(model.parameters())[:4]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        sgd = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)
        sgd.step()
        for parameter in parameters:
            parameter.grad = None
        return sgd.state_dict()

    @staticmethod
    def arguments() -> argparse.Namespace:
        """What a training script keeps of its command line."""
        return argparse.Namespace(arch="resnet18", lr=0.03, schedule=[120, 160], path=Path("out"))

    def lightning(self, model: nn.Module, **more: Any) -> dict[str, Any]:
        """A file as PyTorch Lightning's ModelCheckpoint writes it."""
        return {
            "epoch": 7,
            "global_step": 800,
            "pytorch-lightning_version": "2.1.0",
            "state_dict": model.state_dict(),
            "loops": {"fit_loop": {"state_dict": {}}},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x"}},
            "optimizer_states": [self.optimizer(model)],
            "lr_schedulers": [],
        } | more


@pytest.fixture(scope="session", name="randomised")
def _randomised() -> Callable[[nn.Module, int], nn.Module]:
    return draw


@pytest.fixture(scope="session")
def peers() -> Peers:
    return Peers()


@dataclass(frozen=True)
class Proof:
    """What `prove` found, for further questions."""

    seen: Inspection
    features: Tensor


def check_dropped(seen: Inspection, expected: dict[str, str]) -> None:
    """`expected`: beginnings of names -> reason; each covers something, and nothing is left that none covers."""
    used = set()
    for each in seen.dropped:
        covers = [start for start in expected if each.names.startswith(start)]
        assert covers, f"{each.names} is left out ({each.reason}), which was not expected"
        start = max(covers, key=len)
        assert each.reason == expected[start], each.names
        used.add(start)
    assert used == set(expected)


@pytest.fixture
def prove(tmp_path: Path) -> Callable[..., Proof]:
    """Demands of a file: recognised as `form` and nothing else, `chosen` taken, and the peer's own features."""

    def check(
        path: Path,
        encoder: nn.Module,
        *,
        form: str,
        chosen: str,
        dropped: dict[str, str],
        normalization: str = "imagenet",
        warned: tuple[str, ...] = (),
    ) -> Proof:
        seen = inspect_file(path)
        assert seen.formats == (form,)
        assert seen.chosen == chosen
        assert seen.objections == ()
        assert seen.loads
        check_dropped(seen, dropped)
        assert len(seen.warnings) == len(warned)
        assert all(part in said for part, said in zip(warned, seen.warnings, strict=True))
        loaded = load_backbone(path)
        assert loaded.format == form
        assert loaded.metadata.prefix == chosen
        assert loaded.metadata.parent_sha256 == loaded.sha256 == seen.sha256
        assert loaded.metadata.normalization == PRESETS[normalization]
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        with torch.no_grad():
            ours = loaded.module.double()(images)
            theirs = copy.deepcopy(encoder).double().eval()(images)
        assert ours.std() > 1e-3
        torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-6, atol=1e-6)
        return Proof(seen, ours)

    return check


@pytest.fixture(scope="session", name="verdict")
def _verdict() -> Callable[[Path], str]:
    return verdict


def verdict(path: Path) -> str:
    """Inspect the file and load it; "" if it loads, else why not. Asserts that both decide alike and say it well."""
    said = ""
    try:
        seen = inspect_file(path)
    except InputError as error:
        said = str(error)
    else:
        json.dumps(seen.model_dump(mode="json"), ensure_ascii=False).encode()
        stream = io.StringIO()
        Console(file=stream, width=200).print(show(seen))
        assert all(c.isprintable() or c == "\n" for c in stream.getvalue())
        assert len(stream.getvalue()) < 100_000
        said = "" if seen.loads else seen.objections[0]
    assert said.isprintable()
    assert len(said) <= MESSAGE_CHARACTERS
    assert refusal(path) in (said, said and f"{path}: {said}"), "inspect and loading decide differently"
    return said


def refusal(path: Path) -> str:
    """Why loading refuses the file; "" if it loads."""
    try:
        load_backbone(path, tell=False)
    except InputError as error:
        return str(error)
    return ""
