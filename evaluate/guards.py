"""Guards that can fail: the trunk stayed frozen, the weights are the file's, each test image counts once; and how few
values batch norm would get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from evaluate.checkpoints.load import LoadedBackbone, load_backbone
from pretrain.backbones.registry import fingerprint
from pretrain.runtime.errors import RunFailedError


@contextmanager
def frozen(trunk: nn.Module) -> Iterator[str]:
    """Fingerprint of all weights and buffers (BN statistics too) before the block; after it, it must be the same.

    Raises:
        RunFailedError: the trunk changed. The numbers of such a run are worthless, so none is reported.
    """
    before = fingerprint(trunk)
    yield before
    after = fingerprint(trunk)
    if after != before:
        raise RunFailedError(
            f"the frozen backbone changed during the run: fingerprint {before[:12]} before, {after[:12]} after "
            "(weights and BN buffers)"
        )


def check_weights_are_the_files(backbone: LoadedBackbone) -> None:
    """The weights in memory are those of the file, and none was left at its random start.

    The file is loaded once more, into a backbone with other random weights: a tensor that did not come from the file
    would differ. Of `random:` backbones the fingerprint must be the one they were drawn with.

    Raises:
        RunFailedError: they differ.
    """
    now = fingerprint(backbone.module)
    if backbone.format == "random":
        expected = backbone.sha256
    else:
        # What the user selected, so that the file is decided on as before: an encoder's prefix need not name it alone.
        # Not the run's seed, so that what is drawn and not loaded comes out different.
        again = load_backbone(backbone.ref, select=backbone.select, arch=backbone.arch, seed=0x5EED, tell=False)
        expected = fingerprint(again.module)
    if now != expected:
        raise RunFailedError(
            f"the weights in memory (fingerprint {now[:12]}) are not those of {backbone.ref} ({expected[:12]})"
        )


@torch.no_grad()
def fewest_values(module: nn.Module, forward: Callable[[], object]) -> int | None:
    """How many values of a channel `module`'s batch norms see in `forward`, at the fewest; None where none trains.

    One value has no variance: torch refuses it in training mode. Only batch norms in training mode count; they run in
    eval mode here, so nothing is refused and no statistics move.
    """
    modes = {part: part.training for part in module.modules()}
    seen: list[int] = []

    def note(_part: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].numel() // arguments[0].shape[1])

    norms = [part for part, training in modes.items() if training and isinstance(part, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        module.eval()
        forward()
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in modes.items():
            part.training = training
    return min(seen, default=None)


class EachOnce:
    """Counts how often each of N images was measured; `check` demands exactly once each, on any number of ranks."""

    def __init__(self, n: int) -> None:
        self.counts = np.zeros(n, dtype=np.int64)

    def saw(self, indices: np.ndarray) -> None:
        """These images (by index) were measured; padding must have been taken off before."""
        np.add.at(self.counts, indices, 1)

    def check(self) -> None:
        """Raises RunFailedError: an image was left out or counted twice."""
        wrong = np.flatnonzero(self.counts != 1)
        if len(wrong):
            raise RunFailedError(
                f"{len(wrong)} of {len(self.counts)} test images were not counted exactly once (image {wrong[0]}: "
                f"{self.counts[wrong[0]]} times)"
            )
