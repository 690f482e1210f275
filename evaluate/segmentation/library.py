"""The one door to mmsegmentation: puts missing operators in place, imports it quietly, and says what is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import warnings

from pretrain.runtime.errors import InputError

_DISTRIBUTIONS = ("mmsegmentation", "mmengine", "ftfy", "regex", "prettytable")
_HOW = (
    "pip install 'fastmoco[segmentation]' (mmsegmentation 1.2.2, mmcv-lite 2.1.0, mmengine 0.10.7: wheels, no compiler)"
)


@functools.cache
def load() -> None:
    """Import mmsegmentation's models and transforms into its registries, once.

    Raises:
        InputError: it or something it needs is not installed; how to install it.
    """
    missing = _missing()
    if missing:
        raise InputError(f"segmentation needs {', '.join(missing)}: {_HOW}")
    from evaluate.segmentation import ops

    ops.put_in_place()
    with quiet():
        for module in ("mmseg.datasets.transforms", "mmseg.models", "evaluate.segmentation.heads"):
            importlib.import_module(module)
    from mmengine.logging import MMLogger

    # Otherwise mmengine prints how it initialised each of some hundred tensors.
    MMLogger.get_current_instance().setLevel("WARNING")


class quiet(warnings.catch_warnings):  # noqa: N801 - used like warnings.catch_warnings
    """Hide the warnings of mmsegmentation that say nothing about our use of it, each for a reason."""

    def __enter__(self) -> None:
        super().__enter__()
        # mmcv-lite says on import that an operator of Deformable DETR is missing, which no protocol of ours has.
        warnings.filterwarnings("ignore", "Fail to import ``MultiScaleDeformableAttention``", UserWarning)
        # mmseg's heads call a function that mmseg itself has deprecated.
        warnings.filterwarnings("ignore", "``build_loss`` would be deprecated soon", UserWarning)
        # The published configs average the loss over all pixels, ignored ones too; so do the protocols.
        warnings.filterwarnings("ignore", "Default ``avg_non_ignore`` is False", UserWarning)
        # Two classes mean two logits and a softmax here; mmseg would rather have one logit and a threshold.
        warnings.filterwarnings("ignore", "For binary segmentation, we suggest", UserWarning)
        # With align_corners, sizes of the form 8n + 1 would fit best; test images come in the sizes they have.
        warnings.filterwarnings("ignore", "When align_corners=True", UserWarning)


def installed() -> str:
    """One line for `fastmoco doctor`: the versions and which operators are used, or what to do."""
    missing = _missing()
    if missing:
        return f"not usable, {', '.join(missing)} missing: {_HOW}"
    from evaluate.segmentation import ops

    mmcv = _version("mmcv") or _version("mmcv-lite")
    kind = "compiled operators" if ops.compiled() else "mmcv-lite, operators by fastmoco"
    return f"mmsegmentation {_version('mmsegmentation')}, mmengine {_version('mmengine')}, mmcv {mmcv} ({kind})"


def _missing() -> list[str]:
    missing = [name for name in _DISTRIBUTIONS if _version(name) is None]
    if importlib.util.find_spec("mmcv") is None:
        missing.append("mmcv-lite")
    return missing


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
