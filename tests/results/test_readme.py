"""The tables that the README shows are those the committed rows give."""

from __future__ import annotations

import re
from pathlib import Path

from results.measuring import correctness
from results.readme import MEASURED, refreshed
from results.store import load


def test_the_readme_shows_what_the_rows_give(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert "<!-- table summary from cifar10.jsonl -->" in text
    assert refreshed(text) == text, "make it fresh: python -m results.readme"


def test_a_table_that_was_changed_by_hand_is_put_right(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    changed = re.sub(r"\d\d\.\d\d ±", "99.99 ±", text)
    assert changed != text
    assert refreshed(changed) == text


def test_measured_rows_are_whole_and_name_no_machine() -> None:
    files = sorted(MEASURED.glob("*.jsonl"))
    assert files
    for file in files:
        store = load([file])
        assert not store.problems
        assert len(store.rows) > 0
        content = file.read_text(encoding="utf-8")
        answered = store.runs["run_id"].isin(store.rows.loc[store.rows["metric"] == "top1", "run_id"])
        assert all(
            correctness(store.select(run_id=run_id, metric="top1")) for run_id in store.runs.loc[answered, "run_id"]
        )
        assert not re.search(r'"(/|[A-Za-z]:\\\\)[^"]*"', content), "an absolute path of the machine that measured"
