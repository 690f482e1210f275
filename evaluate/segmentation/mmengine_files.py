"""Checkpoint files of mmengine: read without running what is in them, taken over by a run, and written for mmseg.

Since torch 2.6 `torch.load` builds only tensors and plain containers. mmengine's Runner also stores its message hub,
which needs the few globals of `allowed`, and nothing else is let in.
"""

from __future__ import annotations

import importlib
import io
import pickle
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_bytes


def allowed() -> AbstractContextManager[Any]:
    """A block in which `torch.load(..., weights_only=True)` takes what mmengine's Runner saves.

    mmengine's own `Runner.resume` and `load_checkpoint` work inside it too.
    """
    from mmengine.logging import HistoryBuffer

    numpy = importlib.import_module("numpy._core.multiarray")
    return torch.serialization.safe_globals(
        [
            # A curve of the message hub: two numpy arrays, and the names of its reductions.
            HistoryBuffer,
            (_reduction, "builtins.getattr"),
            np.ndarray,
            np.dtype,
            np.dtypes.Float64DType,
            np.dtypes.Int64DType,
            numpy._reconstruct,
            numpy.scalar,
            # The same two under the path that numpy 1 wrote.
            (numpy._reconstruct, "numpy.core.multiarray._reconstruct"),
            (numpy.scalar, "numpy.core.multiarray.scalar"),
        ]
    )


def _reduction(buffer: Any, name: str) -> Any:
    """What stands in for `getattr` in these files: the methods of a HistoryBuffer that it registers, and no others."""
    from mmengine.logging import HistoryBuffer

    if buffer is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise pickle.UnpicklingError(f"attribute '{name}' of {buffer!r} is not one that mmengine's curves need")
    return getattr(buffer, name)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that mmengine wrote, on the CPU.

    Raises:
        InputError: it is no such file, or asks for a global that is not allowed.
    """
    try:
        with allowed():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an mmengine checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(checkpoint, dict) or not {"meta", "state_dict"} <= checkpoint.keys():
        raise InputError(f"{path} is not an mmengine checkpoint: expected the keys 'meta' and 'state_dict'")
    return checkpoint


def last_checkpoint(directory: Path) -> Path | None:
    """The file that mmengine's CheckpointHook says is the newest in a work directory; None where there is none."""
    pointer = Path(directory) / "last_checkpoint"
    if not pointer.is_file():
        return None
    return Path(directory) / Path(pointer.read_text(encoding="utf-8").strip()).name


def restore(checkpoint: dict[str, Any], path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a Runner's checkpoint into model and optimizer; the step it was saved at.

    Raises:
        InputError: it holds another model, or no optimizer.
    """
    if "optimizer" not in checkpoint:
        raise InputError(f"{path} holds no optimizer, so it cannot be resumed")
    here, there = model.state_dict(), checkpoint["state_dict"]
    differing = sorted(
        name
        for name in here.keys() | there.keys()
        if name not in here or name not in there or here[name].shape != there[name].shape
    )
    if differing:
        raise InputError(
            f"{path} is of another model: it differs in {len(differing)} tensors, for instance {differing[0]}"
        )
    model.load_state_dict(there)
    # OptimWrapper adds a key of its own to what the optimizer saves.
    optimizer.load_state_dict({key: checkpoint["optimizer"][key] for key in ("state", "param_groups")})
    return int(checkpoint["meta"]["iter"])


def write(
    path: Path, model: nn.Module, step: int, classes: tuple[str, ...], palette: tuple[Any, ...], config: str
) -> None:
    """Write the trained segmentor as mmseg's `init_model` reads it; `config`: the model as mmengine's config text."""
    meta = {
        "iter": step,
        "cfg": config,
        "dataset_meta": {"classes": list(classes), "palette": [list(colour) for colour in palette]},
    }
    stream = io.BytesIO()
    torch.save({"meta": meta, "state_dict": {k: v.cpu() for k, v in model.state_dict().items()}}, stream)
    write_bytes(path, stream.getvalue())
