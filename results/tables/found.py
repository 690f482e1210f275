"""What a definition leaves to the rows that are there: a frame of them, the columns and the checkpoints found in it."""

from __future__ import annotations

import json

import pandas as pd

from results.store.lookup import Lookup
from results.store.store import Store
from results.tables.definition import ColumnDefinition, Filter, RowDefinition
from results.tables.settings_named import told_apart

_IDENTITY = ["checkpoint", "method", "backbone", "recipe", "epoch", "pretrain_data"]


def frame_of(store: Store) -> pd.DataFrame:
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


def _filled(column: pd.Series, known: pd.Series) -> pd.Series:
    # Where no run was pretrained nothing is known, and nothing has no type.
    return column.fillna(known.astype(column.dtype))


def _labels(frame: pd.DataFrame, trained: pd.DataFrame) -> dict[str, str]:
    """What each pretraining is called: as those call it that measure its weights, else by its recipe.

    Variants of one recipe that nobody has measured yet are told apart by the settings in which they differ.
    """
    names: dict[str, str] = {}
    for protocol, runs in trained.groupby("protocol"):
        kinds = runs.drop_duplicates("protocol_hash")
        words = _worded(str(protocol), list(kinds["protocol_hash"]), list(kinds["protocol_values"]))
        names |= runs["protocol_hash"].map(words).to_dict()
    measured = frame[frame["checkpoint_ref"].str.startswith("run:").fillna(False) & frame["checkpoint"].notna()]
    pairs = measured[["checkpoint_ref", "checkpoint"]].drop_duplicates()
    # Of several labels, as intermediate epochs have, the shortest is that of the whole pretraining.
    for reference, label in sorted(pairs.itertuples(index=False), key=lambda pair: (-len(pair[1]), pair[1])):
        names[reference.removeprefix("run:")] = label
    return names


def _worded(name: str, hashes: list[str], values: list[str]) -> dict[str, str]:
    """Hash of settings -> `sweep, lr 0.3`: the name alone where there is one variant, or where prose alone differs."""
    if len(hashes) == 1:
        return {hashes[0]: name}
    texts = told_apart(values)
    return {one: f"{name}, {text}" if text else name for one, text in zip(hashes, texts, strict=True)}


def auto_columns(frame: pd.DataFrame) -> list[ColumnDefinition]:
    """A column for each task, set, protocol, main metric and selection that is there."""
    main = frame[(frame["rank"] == 0) & (frame["kind"] == "evaluate")]
    key = ["task", "data", "data_identity", "protocol", "protocol_hash", "metric", "selection"]
    kinds = main[key].drop_duplicates().sort_values(key)
    values = main.drop_duplicates("protocol_hash").set_index("protocol_hash")["protocol_values"]
    columns = []
    for kind in kinds.to_dict("records"):
        same = kinds[(kinds["task"] == kind["task"]) & (kinds["data"] == kind["data"])]
        variants = list(same[same["protocol"] == kind["protocol"]]["protocol_hash"].drop_duplicates())
        words = _worded(str(kind["protocol"]), variants, [values[variant] for variant in variants])
        protocol = words[kind["protocol_hash"]]
        data = str(kind["data"])
        if same["data_identity"].nunique() > 1:
            data += f", content {str(kind['data_identity'])[:4]}"
        how = {"last": "", "held_out": "", "best": ", best on test"}[kind["selection"]]
        wanted: Filter = {name: None if pd.isna(value) else value for name, value in kind.items()}
        label = f"{kind['task']}\n{data}\n{kind['metric']}, {protocol}{how}"
        columns.append(ColumnDefinition(label=label, measured=wanted, selection=kind["selection"]))
    return columns


def checkpoint_rows(
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
