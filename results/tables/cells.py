"""From a definition and a store to a table: which runs and which published numbers stand in which cell."""

from __future__ import annotations

import json

import pandas as pd

from pretrain.runtime.errors import InputError
from results.store import published as published_numbers
from results.store.lookup import Lookup, Row, records
from results.store.store import Store
from results.tables.contest import ALPHA, embolden
from results.tables.definition import ColumnDefinition, Definition, Filter, RowDefinition
from results.tables.measuring import Evidence, measure
from results.tables.table import Cell, Column, Mark, Published, Table

_ORDER = ("last", "held_out", "best")
# What a cell is not made from, unless a definition names it: it would only be carried along.
_RARELY_NEEDED = [
    "campaign",
    "packages",
    "command",
    "code_version",
    "world_size",
    "device",
    "host",
    "started",
    "checkpoint_detail",
]
_IDENTITY = ["checkpoint", "method", "backbone", "recipe", "epoch", "pretrain_data"]


def build(name: str, definition: Definition, store: Store) -> Table:
    """The table of a definition over a store.

    Raises:
        InputError: the definition leaves open which of several published numbers is meant.
    """
    named = _named(definition)
    everything = _frame(store).drop(columns=[name for name in _RARELY_NEEDED if name not in named])
    found = Lookup(records(everything)).positions(definition.measured or {})
    frame = everything.loc[sorted(found)].reset_index(drop=True)
    lookup = Lookup(records(frame))
    columns = _auto_columns(frame) if definition.columns == "auto" else definition.columns
    assert not isinstance(columns, str)
    rows = list(definition.rows)
    if definition.checkpoints:
        rows += _checkpoint_rows(frame, lookup, rows, columns)
    sources: dict[str, int] = {}
    heads: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in rows]
    notes: list[str] = []
    told: dict[str, list[str]] = {}  # how the best were told apart -> the columns of which that is said
    for column in columns:
        inside = lookup.within(column.measured or {})
        head = _head(definition, column, inside.rows)
        heads.append(head)
        selection = column.selection or _selection(inside.rows)
        contestants: list[tuple[Cell, Evidence]] = []
        for row, line in zip(rows, cells, strict=True):
            cell, evidence = _cell(definition, row, column, inside, selection)
            cell.published = _published(definition, row, column, sources)
            if evidence and not set(cell.marks) & {"best", "held_out", "off_protocol"}:
                contestants.append((cell, evidence))
            notes += [f"{row.label}, {head.name}: {why}" for why in cell.why]
            line.append(cell)
        tested = definition.test and column.quantity is None
        if tested and (sentence := embolden(head, contestants, column.tuned)):
            told.setdefault(sentence, []).append(head.name)
    rule = f"Bold: the best of a column and those not significantly worse (Holm-corrected, p ≥ {ALPHA})."
    bold = any(cell.bold for line in cells for cell in line)
    notes = [*([rule] if bold else []), *(f"{'; '.join(names)}: {how}" for how, names in told.items()), *notes]
    return Table(
        name=name,
        title=definition.title,
        caption=definition.caption,
        rows=[row.label for row in rows],
        columns=heads,
        cells=cells,
        notes=notes,
        sources=list(sources),
    )


def _frame(store: Store) -> pd.DataFrame:
    """Rows and, with an empty metric, the runs that have none; a campaign's weights are told of as their pretraining.

    Adds `recipe_values`: the values of the recipe that made the weights, as JSON.
    """
    bare = store.runs[~store.runs["run_id"].isin(store.rows["run_id"])]
    frame = pd.concat([store.rows, bare.reindex(columns=store.rows.columns).astype(store.rows.dtypes)])
    frame = frame.reset_index(drop=True)
    trained = store.runs[store.runs["kind"] == "pretrain"].set_index("run_id")
    # A run that failed early never read its weights: what they are is known from the run that was to make them.
    made_by = frame["checkpoint_ref"].str.removeprefix("run:").where(frame["checkpoint_ref"].str.startswith("run:"))
    made_by = made_by.fillna(frame["run_id"].where(frame["kind"] == "pretrain"))
    values = made_by.map(trained["protocol_values"])
    frame["recipe_values"] = values
    parsed = {text: json.loads(text) for text in values.dropna().unique()}
    for column, key in (("method", "method"), ("backbone", "backbone")):
        known = values.map(lambda text, key=key: parsed[text].get(key) if isinstance(text, str) else None)
        frame[column] = _filled(frame[column], known)
    frame["recipe"] = _filled(frame["recipe"], made_by.map(trained["protocol"]))
    frame["pretrain_seed"] = _filled(frame["pretrain_seed"], made_by.map(trained["seed"]))
    frame["pretrain_data"] = _filled(frame["pretrain_data"], made_by.map(trained["data"]))
    frame["checkpoint"] = _filled(frame["checkpoint"], frame["run_id"].map(_labels(frame, trained)))
    return frame


def _named(definition: Definition) -> set[str]:
    """The columns that a definition's filters name."""
    columns = [] if isinstance(definition.columns, str) else definition.columns
    filters = [definition.measured, *(one.measured for one in (*columns, *definition.rows))]
    return {key for one in filters for key in one or {}}


def _filled(column: pd.Series, known: pd.Series) -> pd.Series:
    # Where no run was pretrained nothing is known, and nothing has no type.
    return column.fillna(known.astype(column.dtype))


def _labels(frame: pd.DataFrame, trained: pd.DataFrame) -> dict[str, str]:
    """What each pretraining is called: as those call it that measure its weights, else by its recipe.

    Variants of one recipe that nobody has measured yet are told apart by the hash of their settings.
    """
    variants = trained.groupby("protocol")["protocol_hash"].nunique()
    several = trained["protocol"].map(variants) > 1
    names = trained["protocol"].where(~several, trained["protocol"] + "#" + trained["protocol_hash"].str[:4]).to_dict()
    measured = frame[frame["checkpoint_ref"].str.startswith("run:").fillna(False) & frame["checkpoint"].notna()]
    pairs = measured[["checkpoint_ref", "checkpoint"]].drop_duplicates()
    # Of several labels, as intermediate epochs have, the shortest is that of the whole pretraining.
    for reference, label in sorted(pairs.itertuples(index=False), key=lambda pair: (-len(pair[1]), pair[1])):
        names[reference.removeprefix("run:")] = label
    return names


def _auto_columns(frame: pd.DataFrame) -> list[ColumnDefinition]:
    """A column for each task, set, protocol, main metric and selection that is there."""
    main = frame[(frame["rank"] == 0) & (frame["kind"] == "evaluate")]
    key = ["task", "data", "data_identity", "protocol", "protocol_hash", "metric", "selection"]
    kinds = main[key].drop_duplicates().sort_values(key)
    columns = []
    for kind in kinds.to_dict("records"):
        same = kinds[(kinds["task"] == kind["task"]) & (kinds["data"] == kind["data"])]
        protocol = str(kind["protocol"])
        if same[same["protocol"] == protocol]["protocol_hash"].nunique() > 1:
            protocol += f"#{kind['protocol_hash'][:4]}"
        data = str(kind["data"])
        if same["data_identity"].nunique() > 1:
            data += f"#{str(kind['data_identity'])[:4]}"
        how = {"last": "", "held_out": "", "best": ", best on test"}[kind["selection"]]
        wanted: Filter = {name: None if pd.isna(value) else value for name, value in kind.items()}
        label = f"{kind['task']}\n{data}\n{kind['metric']}, {protocol}{how}"
        columns.append(ColumnDefinition(label=label, measured=wanted, selection=kind["selection"]))
    return columns


def _checkpoint_rows(
    frame: pd.DataFrame, lookup: Lookup, rows: list[RowDefinition], columns: list[ColumnDefinition]
) -> list[RowDefinition]:
    """A row for each checkpoint that stands in a column and in no row yet."""
    taken: set[int] = set()
    for row in rows:
        if row.measured is not None:
            taken |= lookup.positions(row.measured)
    inside: set[int] = set()
    for column in columns:
        inside |= lookup.positions(column.measured or {})
    rest = frame.loc[sorted(inside - taken)]
    groups = rest[rest["metric"].notna()][_IDENTITY].drop_duplicates().sort_values(_IDENTITY)
    # A checkpoint none of whose runs has ended is known by its label alone.
    alone = rest[~rest["checkpoint"].isin(groups["checkpoint"])]["checkpoint"].dropna().drop_duplicates().sort_values()
    found = []
    for group in groups.to_dict("records"):
        namesakes = groups[groups["checkpoint"] == group["checkpoint"]]
        differing = [name for name in _IDENTITY[1:] if namesakes[name].nunique(dropna=False) > 1]
        more = ", ".join(f"{name} {'-' if pd.isna(group[name]) else group[name]}" for name in differing)
        keys = ["checkpoint", *differing]
        wanted: Filter = {name: None if pd.isna(group[name]) else group[name] for name in keys}
        found.append(RowDefinition(label=f"{group['checkpoint']}{f' ({more})' if more else ''}", measured=wanted))
    return found + [RowDefinition(label=label, measured={"checkpoint": label}) for label in alone]


def _selection(rows: list[Row]) -> str | None:
    present = {row["selection"] for row in rows}
    return next((selection for selection in _ORDER if selection in present), None)


def _head(definition: Definition, column: ColumnDefinition, inside: list[Row]) -> Column:
    main = next((row for row in inside if row["metric"] is not None), None)
    unit = column.unit if column.unit is not None else ("%" if main is None else str(main["unit"]))
    better = column.higher_is_better
    if better is None:
        better = True if main is None or column.quantity else bool(main["higher_is_better"])
    digits = definition.digits if column.digits is None else column.digits
    return Column(tuple(column.label.strip().split("\n")), unit, digits, better)


def _cell(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, inside: Lookup, selection: str | None
) -> tuple[Cell, Evidence | None]:
    """The cell, and what its number is made of when it has one."""
    cell = Cell()
    if row.measured is None:
        return cell, None
    here = inside.find(row.measured)
    for state in ("failed", "unfinished"):
        runs = sorted((one["run_id"], one["error"] or "") for one in here if one["state"] == state)
        if runs:
            cell.marks.append("failed" if state == "failed" else "unfinished")
            cell.why += [f"{run_id} {state}{f': {error}' if error else ''}" for run_id, error in runs]
    done = [one for one in here if one["metric"] is not None]
    if column.quantity is not None:
        name = column.quantity.column
        done = [one | {"value": one[name] / column.quantity.divide_by}
                for one in done if one["rank"] == 0 and one[name] is not None]  # fmt: skip
    elif not any("metric" in (wanted or {}) for wanted in (definition.measured, column.measured)):
        done = [one for one in done if one["rank"] == 0]
    on, mark = _on_protocol(done, definition, column)
    chosen, selection_mark = _of_selection(on, selection)
    cell.run_ids = tuple(sorted({one["run_id"] for one in here}))
    if not chosen:
        return cell, None
    cell.marks += [each for each in (mark, selection_mark) if each]
    try:
        evidence = Evidence(chosen)
        cell.measured = measure(evidence, of_samples=column.quantity is None)
    except InputError as refusal:
        cell.marks.append("refused")
        cell.why.append(str(refusal))
        return cell, None
    return cell, evidence


def _on_protocol(done: list[Row], definition: Definition, column: ColumnDefinition) -> tuple[list[Row], Mark | None]:
    """The rows under the protocol that the column wants or, when there are none, the others with their mark."""
    wanted: Filter = {
        f"protocol.{key}": value for key, value in ((definition.require or {}) | (column.require or {})).items()
    }
    if names := column.protocol or definition.protocol:
        wanted["protocol"] = list(names)
    on = Lookup(done).find(wanted)
    return (on, None) if on or not done else (done, "off_protocol")


def _of_selection(done: list[Row], selection: str | None) -> tuple[list[Row], Mark | None]:
    """The rows of the column's selection or, when there are none, those of another with its mark."""
    wanted = [row for row in done if row["selection"] == selection]
    if not wanted:
        other = _selection(done)
        wanted = [row for row in done if row["selection"] == other]
        return wanted, "best" if other == "best" else "held_out" if other == "held_out" else None
    return wanted, "best" if selection == "best" else None


def _published(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, sources: dict[str, int]
) -> Published | None:
    if definition.published is None or row.published is None or column.published is None:
        return None
    wanted = {**definition.published, **column.published, **row.published}
    found = published_numbers.find(wanted)
    if found.empty:
        return None
    if found["value"].nunique() > 1:
        given = "; ".join(
            f"{value:g} in {source}" for value, source in zip(found["value"], found["source"], strict=True)
        )
        raise InputError(
            f"table '{definition.title}', row '{row.label}', column '{' '.join(column.label.split())}': sources differ "
            f"({given}); name the `source` or another column that tells them apart"
        )
    first = found.iloc[0]
    note = sources.setdefault(first["source"], len(sources) + 1)
    return Published(
        value=float(first["value"]),
        std=None if pd.isna(first["std"]) else float(first["std"]),
        n_trials=None if pd.isna(first["n_trials"]) else int(first["n_trials"]),
        source=first["source"],
        location=first["source_location"],
        protocol=first["protocol"],
        match=first["protocol_match"],
        note=note,
    )
