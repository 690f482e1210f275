"""What a user may name as a checkpoint, found on this machine or fetched, and pinned to what was found.

FILE or FOLDER              as it lies on the disk
hf:ORG/NAME[@REV][:FILE]    a repository of the Hugging Face hub: its weights and what describes them, or one file
timm:MODEL[.TAG]            timm's pretrained weights
https://.../FILE#sha256=HEX a file of the web; a name such as resnet50-0676ba61.pth says its digest itself
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.checkpoints.beside import belongs, read_beside
from evaluate.checkpoints.sources.folders import INDEX, open_checkpoint
from evaluate.checkpoints.sources.hub import PREFIX as HUB
from evaluate.checkpoints.sources.hub import fetch as fetch_from_hub
from evaluate.checkpoints.sources.web import SCHEMES
from evaluate.checkpoints.sources.web import fetch as fetch_from_web
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash, sha256_of_file

TIMM = "timm:"


@dataclass(frozen=True)
class Located:
    """Where a checkpoint lies now.

    Attributes:
        path: a file or folder on this machine.
        ref: the same checkpoint for ever: a path, a hub's commit, or an address with its digest.
        beside: what is known of it in place of files beside it (`evaluate.checkpoints.containers.Content.beside`).
    """

    path: Path
    ref: str
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)


def is_remote(ref: str) -> bool:
    """Whether `ref` names what has to be fetched, rather than a path."""
    return ref.startswith((HUB, TIMM, *SCHEMES))


def locate(ref: str | Path) -> Located:
    """The checkpoint on this machine: from a cache if it lies there, else fetched.

    Raises:
        InputError: a reference that is none, what does not exist, no network, or a digest that does not fit.
    """
    ref = str(ref)
    if ref.startswith(HUB):
        return Located(*fetch_from_hub(ref))
    if ref.startswith(SCHEMES):
        return Located(*fetch_from_web(ref))
    if ref.startswith(TIMM):
        return _timm(ref)
    return Located(Path(ref).expanduser(), ref)


def _timm(ref: str) -> Located:
    name = ref.removeprefix(TIMM)
    try:
        from timm.models import get_pretrained_cfg, is_model
    except ModuleNotFoundError:
        raise InputError(f"{ref} needs timm, which is not installed: pip install 'fastmoco[timm]'") from None
    try:
        config = get_pretrained_cfg(name) if is_model(name) else None
    except RuntimeError:  # a model, and a tag that it does not have
        config = None
    if config is None:
        raise InputError(
            f"timm has no pretrained weights {name!r}; `timm.list_pretrained()` names those that there are"
        )
    told = {
        "architecture": name.partition(".")[0],
        "pretrained_cfg": {
            "mean": list(config.mean),
            "std": list(config.std),
            "input_size": list(config.input_size),
            "interpolation": config.interpolation,
            "crop_pct": config.crop_pct,
            "num_classes": config.num_classes,
        },
    }
    if not config.hf_hub_id:
        raise InputError(
            f"timm's weights {name!r} do not lie on the Hugging Face hub; give their address with its digest: "
            f"{config.url or 'https://...'}#sha256=HEX"
        )
    file = f":{config.hf_hub_filename}" if config.hf_hub_filename else ""
    path, pinned = fetch_from_hub(f"{HUB}{config.hf_hub_id}{file}")
    return Located(path, pinned, {"config.json": told})


def identity(located: Located) -> tuple[str, str | None]:
    """(SHA-256 of the weights, of what the files beside them say), as an analysis and a loaded backbone have them.

    Raises:
        InputError: there is nothing that can be read.
    """
    path = located.path
    if path.is_file() and not path.name.endswith(INDEX):
        # Not opened: whether it loads is asked later, and a damaged file has a digest too.
        told = located.beside | read_beside(path.parent, belongs=belongs(path))
        return sha256_of_file(path), canonical_hash(told) if told else None
    content = open_checkpoint(path)
    told = located.beside | content.beside
    return content.sha256(), canonical_hash(told) if told else None
