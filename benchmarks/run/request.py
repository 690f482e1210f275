"""A request: everything that goes into one run, and the id that follows from it.

The id is a readable slug and a hash of the recipe or protocol as resolved, the data's identity, the seed and the
checkpoint (a file by its SHA-256, a pretraining by its run id, random weights by their seed). Left out are where and
how the run is launched, the prose that names a number's source, and the version of the code: after an update, what is
done stays done, and `run.json` says which version did it. An evaluation's id also holds the checkpoint's label, since
its row bears it; a pretraining has no label, so renaming it in a spec does not train it again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from evaluate.task import resolve_protocol
from pretrain.recipe import BOOKKEEPING, Recipe
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash
from pretrain.runtime.settings import Later, Settings

RANDOM = "random:"
REQUEST = "request.json"
# Fields that change no number: prose, and how a recipe keeps its books (the recipe's name stands in the slug).
LEFT_OUT = {"pretrain": BOOKKEEPING, "evaluate": frozenset({"source", "sources"})}


class CheckpointRef(Settings):
    """The weights an evaluation measures.

    Attributes:
        label: what the campaign or the user calls them.
        ref: a file or folder (absolute), `hf:ORG/NAME@COMMIT`, an address with its digest, or `random:BACKBONE`; for
            what a pretraining of the same root makes, empty.
        from_run: run id of that pretraining, a neighbour of this run's directory.
        epoch: of an intermediate checkpoint of that pretraining; None for what it ended with.
        sha256: of the file; of several, see `evaluate.checkpoints.containers.Content.sha256`.
        described: SHA-256 of what the files beside it say: a `config.json` may decide what the weights compute.
        arch: what no shape of the file tells of its architecture (`evaluate.checkpoints.load.load_backbone`).
        init_seed: draw of the random initialisation.
    """

    label: str
    ref: str = ""
    from_run: str | None = None
    epoch: int | None = None
    sha256: str | None = None
    select: str | None = None
    normalization: str | dict[str, Any] | None = None
    arch: Annotated[str | None, Later(before=None)] = None
    init_seed: int | None = None
    described: Annotated[str | None, Later(before=None)] = None

    def path(self, run_dir: Path) -> str:
        """What `load_backbone` is to load, for a run in `run_dir`."""
        if self.from_run is None:
            return self.ref
        made = Path(run_dir).parent / self.from_run
        return str(made / ("backbone.safetensors" if self.epoch is None else intermediate(self.epoch)))

    def identity(self) -> dict[str, Any]:
        """What of this reference goes into a run id."""
        values = self.identity_of(self.model_dump())
        return values | {"ref": self.ref if self.ref.startswith(RANDOM) else None}


class Request(Settings):
    """One run as asked for: `request.json` in its directory, from which a worker executes it.

    Attributes:
        settings_name, settings: name and values of the recipe (pretraining) or protocol (evaluation), as resolved.
        catalog: path of the data catalog, absolute; None for the built-in sets alone.
    """

    run_id: str = ""
    campaign: str | None = None
    kind: Literal["pretrain", "evaluate"]
    task: str
    settings_name: str
    settings: dict[str, Any]
    data: str
    data_identity: str
    catalog: str | None = None
    seed: int
    checkpoint: CheckpointRef | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def named(self, *, hint: str = "") -> Request:
        """The same request with its run id; `hint` is put into the readable part."""
        settings = self._model().identity_of(self.settings)
        identity = {
            "kind": self.kind,
            "task": self.task,
            "settings": {key: value for key, value in settings.items() if key not in LEFT_OUT[self.kind]},
            "data": self.data_identity,
            "seed": self.seed,
            "checkpoint": self.checkpoint.identity() if self.checkpoint else None,
        }
        words = [self.task, hint, self.settings_name, self.data, f"s{self.seed}"]
        slug = "-".join(_word(word) for word in words if word)
        return self.model_copy(update={"run_id": f"{slug[:100]}-{canonical_hash(identity)[:12]}"})

    def _model(self) -> type[Settings]:
        return Recipe if self.kind == "pretrain" else type(resolve_protocol(self.task, self.settings_name))

    def short(self) -> str:
        """The hash at the end of the run id: what job names carry."""
        return self.run_id[-12:]


def read_request(run_dir: Path) -> Request:
    """The request of a run's directory. Raises InputError when there is none."""
    path = Path(run_dir) / REQUEST
    try:
        return Request.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{run_dir} is no run of a campaign: it holds no {REQUEST}") from None


def intermediate(epoch: int) -> str:
    """Where a pretraining keeps the backbone of an epoch, relative to its directory."""
    return f"checkpoints/epoch_{epoch:04d}.safetensors"


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", str(text)).strip("_")
