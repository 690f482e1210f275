"""A run and its rows: what `run.json` and `result.json` hold, and the long form of one metric a row.

No pandas, no torch: every room may import this module.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json

SCHEMA = 1


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Metric(_Record):
    """One number that a run measured.

    Attributes:
        name: "top1", "mAP", "AP50", "mIoU", "loss" ...; per-class ones are "IoU/sky".
        value: in `unit`; finite. What could not be measured has no row.
        unit: "%" (0 to 100), "s", "bytes", "" ...
        selection: "last" (the protocol's end), "best" (the best epoch seen on the test set, an optimistic number) or
            "held_out" (chosen on a split carved from train). Tables never mix them.
        n: how many samples the number is taken over.
        ci95: bootstrap interval over those samples.
        detail: what was chosen or varied to get it, for instance {"k": 20} or {"lr": 0.1}.
    """

    name: str
    value: float
    unit: str = "%"
    higher_is_better: bool = True
    selection: Literal["last", "best", "held_out"] = "last"
    n: int | None = Field(default=None, ge=1)
    ci95: tuple[float, float] | None = None
    detail: dict[str, Any] = {}

    @field_validator("value")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError(f"a metric must be finite, not {value}")
        return value


class Checkpoint(_Record):
    """Which weights were measured. `ref` is a file or `random:BACKBONE`; `label` is the campaign's word for it."""

    label: str
    ref: str
    sha256: str | None = None
    method: str | None = None
    backbone: str | None = None
    recipe: str | None = None
    epoch: int | None = None
    pretrain_seed: int | None = None
    pretrain_data: str | None = None
    format: str | None = None
    prefix: str | None = None
    select: str | None = None
    normalization: dict[str, Any] | None = None


class Data(_Record):
    """Which data: its name in the catalog, a hash of what it holds, and what the task saw of it and did with it.

    `seen` holds, for tasks that classify, `input`: the smallest, median and largest longer side of all images, the
    size they were resized and cropped to, and whether that is their own (`native`).
    """

    name: str
    identity: str | None = None
    seen: dict[str, Any] | None = None


class Protocol(_Record):
    """The protocol (of an evaluation) or recipe (of a pretraining) as resolved: its name and every value."""

    name: str
    values: dict[str, Any] = {}


class Run(_Record):
    """Everything that went into a run, and, in `result.json`, what it took.

    Attributes:
        run_id: readable slug plus hash of all that went in.
        kind: "pretrain" or "evaluate".
        task: "pretrain" or one of the task names.
        world_size: how many processes shared the work, each on a device of its own where there are devices.
        wall_s, peak_mem_bytes, device, host, started, ended: filled in when the run has ended (ISO 8601, UTC).
    """

    schema_version: int = SCHEMA
    run_id: str
    campaign: str | None = None
    kind: Literal["pretrain", "evaluate"]
    task: str
    protocol: Protocol
    checkpoint: Checkpoint | None = None
    data: Data
    seed: int
    code_version: str | None = None
    packages: dict[str, str] = {}
    command: list[str] = []
    world_size: int = Field(default=1, ge=1)
    device: str | None = None
    host: str | None = None
    started: str | None = None
    ended: str | None = None
    wall_s: float | None = None
    peak_mem_bytes: int | None = None


class Result(_Record):
    """The content of `result.json`."""

    run: Run
    metrics: list[Metric]


def write_result(directory: Path, result: Result) -> None:
    """Write `DIR/result.json`, whole or not at all. A finished run is never edited.

    Raises:
        FileExistsError: the run already has a result.
    """
    path = Path(directory) / "result.json"
    if path.exists():
        raise FileExistsError(f"{path} exists: a finished run is never edited")
    write_json(path, result.model_dump(mode="json"))


def read_result(directory: Path) -> Result:
    """Read `DIR/result.json`.

    Raises:
        InputError: the file is not a result: what is wrong with it, in one sentence.
        FileNotFoundError: the run has none.
    """
    path = Path(directory) / "result.json"
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError, json.JSONDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path} is not a result file: {where + ': ' if where else ''}{first['msg']}") from None


def read_run(directory: Path) -> Run:
    """What `DIR/run.json` says of a run, finished or not.

    Raises:
        InputError: there is none, or it is no description of a run.
    """
    path = Path(directory) / "run.json"
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{directory} is no run's directory: it holds no run.json") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path} does not describe a run: {str(error).splitlines()[0]}") from None
