"""From a definition and a store to a table: which runs and which published numbers stand in which cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from pretrain.errors import InputError
from results import published as published_numbers
from results.contest import ALPHA, embolden
from results.definition import ColumnDefinition, Definition, Filter, RowDefinition
from results.matching import matches
from results.measuring import measure
from results.store import Store
from results.table import Cell, Column, Mark, Published, Table

_ORDER = ("last", "held_out", "best")
_IDENTITY = ["checkpoint", "method", "backbone", "recipe", "epoch", "pretrain_data"]


def build(name: str, definition: Definition, store: Store) -> Table:
    """The table of a definition over a store.

    Raises:
        InputError: the definition leaves open which of several published numbers is meant.
    """
    frame = _narrowed(_frame(store), definition.measured or {})
    columns = _auto_columns(frame) if definition.columns == "auto" else definition.columns
    assert not isinstance(columns, str)
    rows = list(definition.rows)
    if definition.checkpoints:
        rows += _checkpoint_rows(frame, rows, columns)
    sources: dict[str, int] = {}
    heads: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in rows]
    notes: list[str] = []
    told: list[str] = []
    for column in columns:
        inside = _narrowed(frame, column.measured or {})
        head = _head(definition, column, inside)
        heads.append(head)
        selection = column.selection or _selection(inside)
        contestants: list[tuple[Cell, pd.DataFrame]] = []
        for row, line in zip(rows, cells, strict=True):
            cell, used = _cell(definition, row, column, inside, selection)
            cell.published = _published(definition, row, column, sources)
            if cell.measured and not set(cell.marks) & {"best", "held_out", "off_protocol"}:
                contestants.append((cell, used))
            notes += [f"{row.label}, {head.name}: {why}" for why in cell.why]
            line.append(cell)
        if definition.test and column.quantity is None and (sentence := embolden(head, contestants)):
            told.append(sentence)
    if told:
        rule = f"Bold: the best of a column and those not significantly worse (Holm-corrected, p ≥ {ALPHA})."
        notes = [rule, *told, *notes]
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
        frame[column] = frame[column].fillna(known)
    frame["recipe"] = frame["recipe"].fillna(made_by.map(trained["protocol"]))
    frame["pretrain_seed"] = frame["pretrain_seed"].fillna(made_by.map(trained["seed"]).astype("Int64"))
    frame["pretrain_data"] = frame["pretrain_data"].fillna(made_by.map(trained["data"]))
    frame["checkpoint"] = frame["checkpoint"].fillna(frame["protocol"].where(frame["kind"] == "pretrain"))
    return frame


def _narrowed(frame: pd.DataFrame, wanted: Filter) -> pd.DataFrame:
    """The rows that match; `protocol.KEY` and `recipe.KEY` look into the values of the protocol and the recipe."""
    plain = {key: value for key, value in wanted.items() if "." not in key}
    # A run without a result has no metric yet: it belongs wherever its metrics would.
    waiting = frame["metric"].isna()
    mask = pd.Series(True, index=frame.index)
    for key, value in plain.items():
        hit = matches(frame, {key: value})
        mask &= (hit | waiting) if key in ("metric", "selection", "rank", "data_identity") else hit
    for key, value in wanted.items():
        if "." in key:
            table, _, path = key.partition(".")
            held = _looked_up(frame[f"{table}_values"], path)
            options = value if isinstance(value, list) else [value]
            mask &= held.map(lambda item, options=options: item in options)
    return frame[mask]


def _looked_up(texts: pd.Series, path: str) -> pd.Series:
    found: dict[str, Any] = {}
    for text in texts.dropna().unique():
        place: Any = json.loads(text)
        for part in path.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        found[text] = place
    return texts.astype(object).map(lambda text: found.get(text) if isinstance(text, str) else None)


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
    frame: pd.DataFrame, rows: list[RowDefinition], columns: list[ColumnDefinition]
) -> list[RowDefinition]:
    """A row for each checkpoint that stands in a column and in no row yet."""
    taken: set[Any] = set()
    for row in rows:
        if row.measured is not None:
            taken |= set(_narrowed(frame, row.measured).index)
    inside: set[Any] = set()
    for column in columns:
        inside |= set(_narrowed(frame, column.measured or {}).index)
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


def _selection(inside: pd.DataFrame) -> str | None:
    present = set(inside["selection"].dropna())
    return next((selection for selection in _ORDER if selection in present), None)


def _head(definition: Definition, column: ColumnDefinition, inside: pd.DataFrame) -> Column:
    main = inside[inside["metric"].notna()]
    unit = column.unit if column.unit is not None else ("%" if main.empty else str(main["unit"].iloc[0]))
    better = column.higher_is_better
    if better is None:
        better = True if main.empty or column.quantity else bool(main["higher_is_better"].iloc[0])
    digits = definition.digits if column.digits is None else column.digits
    return Column(tuple(column.label.strip().split("\n")), unit, digits, better)


def _cell(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, inside: pd.DataFrame, selection: str | None
) -> tuple[Cell, pd.DataFrame]:
    """The cell, and the rows its number is made of."""
    cell = Cell()
    if row.measured is None:
        return cell, inside.iloc[:0]
    here = _narrowed(inside, row.measured)
    for state in ("failed", "unfinished"):
        runs = here[here["state"] == state]
        if len(runs):
            cell.marks.append("failed" if state == "failed" else "unfinished")
            cell.why += [f"{run_id} {state}{f': {error}' if isinstance(error, str) else ''}" for run_id, error in
                         sorted(zip(runs["run_id"], runs["error"], strict=True))]  # fmt: skip
    done = here[here["metric"].notna()]
    if column.quantity is not None:
        done = done[done["rank"] == 0]
        done = done[done[column.quantity.column].notna()]
    else:
        done = _main_metric(done, definition, column)
    on, mark = _on_protocol(done, definition, column)
    chosen, selection_mark = _of_selection(on, selection)
    cell.run_ids = tuple(sorted(here["run_id"].unique()))
    if chosen.empty:
        return cell, chosen
    cell.marks += [each for each in (mark, selection_mark) if each]
    value = "value"
    if column.quantity is not None:
        value = "_quantity"
        chosen = chosen.assign(_quantity=chosen[column.quantity.column].astype(float) / column.quantity.divide_by)
    try:
        cell.measured = measure(chosen, value)
    except InputError as refusal:
        cell.marks.append("refused")
        cell.why.append(str(refusal))
    return cell, chosen


def _main_metric(done: pd.DataFrame, definition: Definition, column: ColumnDefinition) -> pd.DataFrame:
    named = any("metric" in (wanted or {}) for wanted in (definition.measured, column.measured))
    return done if named else done[done["rank"] == 0]


def _on_protocol(
    done: pd.DataFrame, definition: Definition, column: ColumnDefinition
) -> tuple[pd.DataFrame, Mark | None]:
    """The rows under the protocol that the column wants or, when there are none, the others with their mark."""
    names = column.protocol or definition.protocol
    require = {**(definition.require or {}), **(column.require or {})}
    on = done[done["protocol"].isin(names)] if names else done
    on = _narrowed(on, {f"protocol.{key}": value for key, value in require.items()})
    return (on, None) if len(on) or done.empty else (done, "off_protocol")


def _of_selection(done: pd.DataFrame, selection: str | None) -> tuple[pd.DataFrame, Mark | None]:
    """The rows of the column's selection or, when there are none, those of another with its mark."""
    wanted = done[done["selection"] == selection]
    if wanted.empty:
        other = _selection(done)
        wanted = done[done["selection"] == other]
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
        note=note,
    )
