"""A device whose memory is full ends a run in one sentence that names the setting to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.run.request import Request
from pretrain.runtime.errors import RunFailedError

# Settings of evaluations that decide how much lies on the device at once, the first that a protocol has.
_SIZES = ("global_batch_size", "batch_size", "query_chunk")


@contextmanager
def out_of_memory_explained(request: Request) -> Iterator[None]:
    """Raise RunFailedError in the place of torch's OutOfMemoryError."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        told = str(error).partition(". GPU")[0].partition("\n")[0]
        raise RunFailedError(f"the device is out of memory ({told}); {_advice(request)}") from error


def _advice(request: Request) -> str:
    settings = request.settings
    if request.kind == "pretrain":
        size = settings.get("micro_batch_size") or settings["global_batch_size"]
        return f"--set micro_batch_size={max(size // 2, 2)} passes the batch in parts, with the negatives of the whole"
    name = next((name for name in _SIZES if isinstance(settings.get(name), int)), None)
    if name is None:
        return "use a device with more memory, or smaller images"
    also = "; the lr follows by the protocol's rule" if name == "global_batch_size" else ""
    return f"--set {name}={max(settings[name] // 2, 1)} needs less{also}"
