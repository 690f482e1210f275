"""The columns of the long form, one metric a row: what each holds, and how a run becomes such rows."""

from __future__ import annotations

import json
import marshal
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from pretrain.runtime.files import canonical_hash
from results.row import Metric, Run

# (name, type, what it holds). The state's columns are the run's; the metric's are null for a run without a result.
_RUN: list[tuple[str, pa.DataType, str]] = [
    ("run_id", pa.string(), "readable slug plus hash of all that went in"),
    ("state", pa.string(), "done, failed (it said why) or unfinished (begun, no result yet)"),
    ("error", pa.string(), "why a failed run failed"),
    ("campaign", pa.string(), "the campaign the run belongs to"),
    ("kind", pa.string(), "pretrain or evaluate"),
    ("task", pa.string(), "pretrain or the name of the task"),
    ("protocol", pa.string(), "name of the protocol (of an evaluation) or recipe (of a pretraining)"),
    ("protocol_hash", pa.string(), "first 8 digits of the hash of the protocol as resolved, without its prose"),
    ("protocol_values", pa.string(), "every value of the protocol, as JSON"),
    ("checkpoint", pa.string(), "the campaign's word for the weights"),
    ("checkpoint_ref", pa.string(), "the file, or random:BACKBONE"),
    ("checkpoint_sha256", pa.string(), "hash of the file"),
    ("checkpoint_detail", pa.string(), "how the file was read (format, prefix, select, normalization), as JSON"),
    ("method", pa.string(), "the method the weights were pretrained with"),
    ("backbone", pa.string(), "the architecture"),
    ("recipe", pa.string(), "the recipe the weights were pretrained with"),
    ("epoch", pa.int64(), "pretraining epochs behind the weights"),
    ("pretrain_seed", pa.int64(), "seed of the pretraining"),
    ("pretrain_data", pa.string(), "the set the weights were pretrained on"),
    ("data", pa.string(), "the evaluated set's name in the catalog (of a pretraining: the set trained on)"),
    ("data_identity", pa.string(), "hash of what that set holds"),
    ("data_seen", pa.string(), "sizes of its images and how they were resized and cropped, as JSON"),
    ("seed", pa.int64(), "seed of this run"),
    ("code_version", pa.string(), "version of this code"),
    ("packages", pa.string(), "versions of the packages, as JSON"),
    ("command", pa.string(), "the command that does this run again, quoted for a shell"),
    ("world_size", pa.int64(), "how many processes shared the work, each on a device of its own where there are any"),
    ("device", pa.string(), "where it was computed"),
    ("host", pa.string(), "the machine's name"),
    ("started", pa.string(), "ISO 8601, UTC"),
    ("ended", pa.string(), "ISO 8601, UTC"),
    ("wall_s", pa.float64(), "seconds the run took"),
    ("peak_mem_bytes", pa.int64(), "largest memory in use"),
    ("path", pa.string(), "the run's directory, or the JSON-lines file the row was read from"),
]
_METRIC: list[tuple[str, pa.DataType, str]] = [
    ("metric", pa.string(), "name of the metric: top1, mAP, AP50, mIoU ..."),
    ("rank", pa.int64(), "place of the metric in its result, from 0; the first is the task's main one"),
    ("value", pa.float64(), "the number, in `unit`"),
    ("unit", pa.string(), "% (0 to 100), s, bytes ..."),
    ("higher_is_better", pa.bool_(), "whether more is better"),
    ("selection", pa.string(), "last, best (on the test set: optimistic) or held_out (chosen on a part of train)"),
    ("n", pa.int64(), "samples the number is taken over"),
    ("ci95_low", pa.float64(), "lower end of the 95 % interval over those samples"),
    ("ci95_high", pa.float64(), "upper end of the 95 % interval over those samples"),
    ("detail", pa.string(), "what was chosen or varied to get it, as JSON"),
]
COLUMNS: dict[str, str] = {name: about for name, _, about in [*_RUN, *_METRIC]}
RUN_COLUMNS = tuple(name for name, _, _ in _RUN)
RUN_SCHEMA = pa.schema([(name, kind) for name, kind, _ in _RUN])
METRIC_SCHEMA = pa.schema([(name, kind) for name, kind, _ in _METRIC])
SCHEMA = pa.schema([*RUN_SCHEMA, *METRIC_SCHEMA])


_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII).fullmatch
# What a protocol says of its numbers changes no number.
PROSE = frozenset({"name", "source", "sources"})


class TextOf:
    """JSON text of mappings that many runs share, made once for equal content."""

    def __init__(self) -> None:
        self._texts: dict[bytes, str] = {}
        self._hashes: dict[tuple[str, str], str] = {}

    def json(self, value: dict[str, Any]) -> str:
        """A mapping as compact JSON with sorted keys."""
        if not value:
            return "{}"
        # marshal is ten times as fast as json; equal bytes mean equal content (the reverse does not hold: a miss).
        key = marshal.dumps(value)
        text = self._texts.get(key)
        if text is None:
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            self._texts[key] = text
        return text

    def protocol_hash(self, name: str, values_text: str) -> str:
        """First 8 digits of the hash of a protocol's name and values."""
        key = (name, values_text)
        if key not in self._hashes:
            values = {key: value for key, value in json.loads(values_text).items() if key not in PROSE}
            self._hashes[key] = canonical_hash({"name": name, "values": values})[:8]
        return self._hashes[key]


def quoted(command: Sequence[str]) -> str:
    """A command for a shell, as `shlex.join`; it is asked for with every run, and most words need no quotes."""
    return " ".join([word if _PLAIN(word) else shlex.quote(word) for word in command])


def run_values(run: Run, texts: TextOf, *, state: str, error: str | None, path: str) -> tuple[Any, ...]:
    """A run as values in the order of `RUN_COLUMNS`."""
    protocol, checkpoint, data = run.protocol, run.checkpoint, run.data
    values_text = texts.json(protocol.values)
    about: tuple[Any, ...] = (None,) * 10
    if checkpoint is not None:
        how: dict[str, Any] = {"format": checkpoint.format, "prefix": checkpoint.prefix, "select": checkpoint.select}
        how |= {"normalization": checkpoint.normalization}
        about = (
            checkpoint.label,
            checkpoint.ref,
            checkpoint.sha256,
            texts.json({name: value for name, value in how.items() if value is not None}),
            checkpoint.method,
            checkpoint.backbone,
            checkpoint.recipe,
            checkpoint.epoch,
            checkpoint.pretrain_seed,
            checkpoint.pretrain_data,
        )
    return (
        run.run_id,
        state,
        error,
        run.campaign,
        run.kind,
        run.task,
        protocol.name,
        texts.protocol_hash(protocol.name, values_text),
        values_text,
        *about,
        data.name,
        data.identity,
        None if data.seen is None else texts.json(data.seen),
        run.seed,
        run.code_version,
        texts.json(run.packages),
        quoted(run.command),
        run.world_size,
        run.device,
        run.host,
        run.started,
        run.ended,
        run.wall_s,
        run.peak_mem_bytes,
        path,
    )


def metric_values(metric: Metric, rank: int, texts: TextOf) -> tuple[Any, ...]:
    """A metric as values in the order of `METRIC_SCHEMA`."""
    low, high = metric.ci95 or (None, None)
    return (
        metric.name,
        rank,
        metric.value,
        metric.unit,
        metric.higher_is_better,
        metric.selection,
        metric.n,
        low,
        high,
        texts.json(metric.detail),
    )


def long_form(runs: Sequence[tuple[Any, ...]], metrics: Sequence[Iterable[tuple[Any, ...]]]) -> pa.Table:
    """Runs and their metrics as one table of `SCHEMA`; a run without metrics has one row whose metric is null.

    `runs[i]` has the values of `RUN_COLUMNS`, `metrics[i]` those of `METRIC_SCHEMA` for each metric of that run.
    """
    owners: list[int] = []
    flat: list[tuple[Any, ...]] = []
    nothing = (None,) * len(METRIC_SCHEMA)
    for index, group in enumerate(metrics):
        before = len(flat)
        flat.extend(group)
        if len(flat) == before:
            flat.append(nothing)
        owners.extend([index] * (len(flat) - before))
    # A run's columns are built once and taken for each of its metrics: text is by far the most of it.
    wide = _table(runs, RUN_SCHEMA).take(pa.array(owners, pa.int64()))
    narrow = _table(flat, METRIC_SCHEMA)
    return pa.Table.from_arrays([*wide.columns, *narrow.columns], schema=SCHEMA)


def _table(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table([pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)], schema)
