"""The store: every run under any number of roots as one table, one metric a row, and what was wrong on the way."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing
from results.store.columns import (
    COLUMNS,
    METRIC_SCHEMA,
    RUN_COLUMNS,
    SCHEMA,
    TextOf,
    long_form,
    metric_values,
    run_values,
)
from results.store.matching import matches
from results.store.reading import Problem, found_runs

__all__ = ["COLUMNS", "Problem", "Store", "collect", "load"]

_ADDED_LATER = frozenset({"data_seen"})  # columns that older snapshots lack
_SNAPSHOT = b"fastmoco-store-1"
_PANDAS = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
_STATES = {"done": 0, "failed": 1, "unfinished": 2}


@dataclass(frozen=True)
class Store:
    """What `load` found.

    Attributes:
        rows: one metric of a finished run a row, columns `COLUMNS`, in the order of run_id and rank.
        runs: one run a row, failed and unfinished ones too, the run's columns (`results.store.columns.RUN_COLUMNS`).
        problems: what gave no row, in the order of paths.
    """

    rows: pd.DataFrame
    runs: pd.DataFrame
    problems: list[Problem]

    def select(self, **wanted: Any) -> pd.DataFrame:
        """The rows whose columns hold the wanted values: `store.select(task="linear", epoch=[100, 200])`.

        A list means any of its values; None means that the column is empty.

        Raises:
            InputError: a name that is no column.
        """
        return self.rows[matches(self.rows, wanted)]

    def export(self, path: Path) -> None:
        """Write a Parquet snapshot of rows and runs, whole or not at all; `load` takes it as a root."""
        without = self.runs[~self.runs["run_id"].isin(self.rows["run_id"])]
        tables = [pa.Table.from_pandas(self.rows, SCHEMA, preserve_index=False)]
        if len(without):
            bare = without.reindex(columns=list(COLUMNS))
            tables.append(pa.Table.from_pandas(bare, SCHEMA, preserve_index=False))
        table = pa.concat_tables(tables).replace_schema_metadata({b"format": _SNAPSHOT})
        with replacing(Path(path)) as stream:
            pq.write_table(table, stream, compression="zstd")


def load(roots: Sequence[Path]) -> Store:
    """Read every run under the roots.

    A root is a directory (searched through for runs), a Parquet snapshot (`Store.export`) or a JSON-lines file of
    results (`collect`). A run found twice is kept once: a finished one before one that is not, the earliest before a
    later one. Nothing but a root that does not exist is fatal.

    Raises:
        InputError: no such root, or a file that is neither of the two.
    """
    problems: list[Problem] = []
    snapshots = [root for root in dict.fromkeys(map(Path, roots)) if root.suffix == ".parquet" and root.is_file()]
    others = [root for root in map(Path, roots) if root not in snapshots]
    texts = TextOf()
    runs: list[tuple[Any, ...]] = []
    metrics: list[list[tuple[Any, ...]]] = []
    with _no_collection():
        for one in found_runs(others, problems):
            runs.append(run_values(one.run, texts, state=one.state, error=one.error, path=one.path))
            metrics.append([metric_values(metric, rank, texts) for rank, metric in enumerate(one.metrics)])
        table = pa.concat_tables([long_form(runs, metrics), *map(_read_snapshot, snapshots)])
    table = _without_duplicates(table, problems)
    table = table.sort_by([("run_id", "ascending"), ("rank", "ascending")])
    frame = table.to_pandas(types_mapper=_PANDAS.get)
    first = ~frame["run_id"].duplicated()
    return Store(
        rows=frame[frame["metric"].notna()].reset_index(drop=True),
        runs=frame.loc[first, list(RUN_COLUMNS)].reset_index(drop=True),
        problems=sorted(problems, key=lambda problem: (problem.path, problem.kind, problem.message)),
    )


def collect(roots: Sequence[Path], out_jsonl: Path) -> int:
    """Gather the finished runs under `roots` into one JSON-lines file fit to be committed; how many there are.

    Kept: everything a result holds. Taken out: host names and the directories of this machine (a path keeps its last
    part). The same runs give the same bytes whatever the roots' order.

    Raises:
        InputError: as `load`; or a root that is a snapshot, which holds no whole results.
    """
    from results.store.collecting import write_lines

    return write_lines(roots, Path(out_jsonl))


@contextmanager
def _no_collection() -> Iterator[None]:
    # Reading makes millions of objects and no cycles: the collector would look at all of them again and again, which
    # doubles the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_snapshot(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a whole Parquet file: {error}") from None
    if (table.schema.metadata or {}).get(b"format") != _SNAPSHOT:
        raise InputError(f"{path} is a Parquet file, but not a snapshot that fastmoco wrote")
    for place, column in enumerate(SCHEMA):
        if column.name in _ADDED_LATER and column.name not in table.schema.names:
            table = table.add_column(place, column, pa.nulls(len(table), column.type))
    return table.replace_schema_metadata(None).cast(SCHEMA)


def _without_duplicates(table: pa.Table, problems: list[Problem]) -> pa.Table:
    # A run found once is a block of rows whose rank grows from 0 (or is null, when it has no metric).
    run_id = table["run_id"].to_numpy(zero_copy_only=False)
    if not len(run_id):
        return table
    rank = table["rank"].fill_null(0).to_numpy()
    starts = np.flatnonzero(np.r_[True, (run_id[1:] != run_id[:-1]) | (rank[1:] == 0)])
    owners = pd.Series(run_id[starts])
    twice = owners.duplicated(keep=False)
    if not twice.any():
        return table
    ends = np.r_[starts[1:], len(run_id)]
    keep = np.ones(len(run_id), dtype=bool)
    for _, blocks in owners[twice].groupby(owners[twice], sort=True):
        loser_blocks = _losers(table, [(starts[index], ends[index]) for index in blocks.index], problems)
        for start, end in loser_blocks:
            keep[start:end] = False
    return table.filter(pa.array(keep))


def _losers(table: pa.Table, blocks: list[tuple[int, int]], problems: list[Problem]) -> Iterable[tuple[int, int]]:
    def described(block: tuple[int, int]) -> dict[str, Any]:
        first = table.slice(block[0], 1).to_pylist()[0]
        numbers = table.slice(block[0], block[1] - block[0]).select(METRIC_SCHEMA.names).to_pylist()
        return {"block": block, "numbers": repr(numbers), **{key: first[key] for key in ("state", "ended", "path")}}

    # The earliest finished counts: a finished run is never edited, so a later one with other numbers is the odd one.
    ranked = sorted(
        (described(block) for block in blocks),
        key=lambda one: (_STATES[one["state"]], one["ended"] or "~", one["numbers"], one["path"]),
    )
    kept = ranked[0]
    for other in ranked[1:]:
        if other["state"] == "done":
            same = "with the same numbers" if other["numbers"] == kept["numbers"] else "with OTHER numbers, not used"
            problems.append(Problem(other["path"], "duplicate", f"the run stands also in {kept['path']}, {same}"))
    return [one["block"] for one in ranked[1:]]
