"""The published numbers: every row keeps the schema, and nothing is there that no source gives."""

from __future__ import annotations

import pytest

from evaluate.task import TASKS, protocols
from results.store.published import PUBLISHED_COLUMNS, find, published
from results.tables.definition import definitions, load_definition

# As evaluate/detection/measuring.py names them: boxes plain, instance masks with `mask_`.
DETECTION = {"AP", "AP50", "AP75", "mask_AP", "mask_AP50", "mask_AP75"}

CHOICES = {
    "metric": {"top1", "top5", "mAP", "AP", "AP50", "AP75", "mIoU", "pixel_acc", "score"},
    "reading": {"primary", "quotation", "figure"},
    "confidence": {"primary", "secondary"},
    "protocol_match": {"same", "near", "none"},
}
REQUIRED = [
    "method",
    "backbone",
    "pretrain_dataset",
    "task",
    "protocol",
    "metric",
    "value",
    "source",
    "source_location",
]


def test_all_rows_are_there_with_all_columns() -> None:
    assert list(published().columns) == list(PUBLISHED_COLUMNS)
    assert len(published()) == 2255
    assert not published().duplicated().any()


@pytest.mark.parametrize("column", sorted(CHOICES))
def test_values_are_among_those_that_are_documented(column: str) -> None:
    assert set(published()[column]) <= CHOICES[column]


@pytest.mark.parametrize("column", REQUIRED)
def test_no_row_lacks_what_every_number_has(column: str) -> None:
    assert published()[column].notna().all()


def test_numbers_are_percent_and_spreads_are_not_negative() -> None:
    assert published()["value"].between(0, 100).all()
    assert (published()["std"].dropna() >= 0).all()
    assert (published()["pretrain_epochs"].dropna() > 0).all()


def test_a_protocol_that_is_the_same_is_one_of_ours_by_name() -> None:
    same = published()[published()["protocol_match"] == "same"]
    assert len(same) == 82
    assert same["our_task"].notna().all()
    assert same["our_protocol"].notna().all()


def test_the_anchors_of_fast_moco() -> None:
    rows = find({"method": "Fast-MoCo", "source": "Fast-MoCo repo README, Pretrained Models table"})
    assert dict(zip(rows["pretrain_epochs"], rows["value"], strict=True)) == {100: 73.5, 200: 75.1, 400: 75.5}
    assert set(rows["protocol_match"]) == {"same"}


@pytest.mark.parametrize("task", ["semi_1pct", "semi_10pct", "voc_det", "coco_det", "voc_seg"])
def test_no_number_of_fast_moco_where_no_source_gives_one(task: str) -> None:
    assert find({"method": "Fast-MoCo", "task": task}).empty


def test_protocols_and_metrics_are_named_as_the_tasks_name_them() -> None:
    rows = published()
    named = rows[rows["our_protocol"].notna()][["our_task", "our_protocol"]].drop_duplicates()
    for task, protocol in named.itertuples(index=False):
        assert protocol in protocols(task), f"published.csv names {task} {protocol}"
    assert set(rows["our_task"].dropna()) <= set(TASKS)
    assert set(rows.loc[rows["our_task"] == "detection", "our_metric"].dropna()) <= DETECTION
    for name in definitions():
        definition = load_definition(name)
        if not isinstance(definition.columns, str):
            metrics = {(one.measured or {}).get("metric") for one in (definition, *definition.columns)} - {None}
            known = DETECTION | {"top1", "top5", "mIoU", "mAP"}
            assert metrics <= known, name
            for column in definition.columns:
                task = (definition.measured or {}).get("task")
                assert all(one in protocols(str(task)) for one in column.protocol or definition.protocol or [])
