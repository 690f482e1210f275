"""The one door to detectron2: says in a sentence when it is missing, and imports it without its noise."""

from __future__ import annotations

import functools
import importlib
import logging
import warnings

from evaluate.detection import found, installed, usable
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")


@functools.cache
def load() -> None:
    """Import detectron2 and what we add to its registries, once.

    Raises:
        InputError: there is none that works; how to install it.
    """
    if not usable():
        raise InputError(f"the task 'detection' needs detectron2: {installed()}")
    with quiet():
        for module in (
            "detectron2.modeling",
            "detectron2.solver",
            "evaluate.detection.heads",
            "evaluate.detection.trunk",
        ):
            importlib.import_module(module)
    here = found()
    if here is not None and not here.version.endswith("+pure"):
        log.info("detectron2 %s of %s", here.version, here.folder)
    # Otherwise it says how it initialised each layer, beside what we say of the run.
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class quiet(warnings.catch_warnings):  # noqa: N801 - used like warnings.catch_warnings
    """Hide warnings of detectron2 that say nothing about our use of it, each for a reason."""

    def __enter__(self) -> None:
        super().__enter__()
        # v0.6 calls these in ways that torch has deprecated since; what they do has not changed.
        warnings.filterwarnings("ignore", "torch.meshgrid: in an upcoming release", UserWarning)
        warnings.filterwarnings("ignore", r"`torch.cuda.amp.autocast\(args...\)` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        # A resized mask that is only read.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        # On import: regular expressions of v0.6 without the r before the quotes, and packages that are to be renamed.
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
