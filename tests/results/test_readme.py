"""The tables that the README shows are those the committed rows give."""

from __future__ import annotations

import re
from pathlib import Path

from results.readme import MEASURED, refreshed
from results.store.lookup import records
from results.store.store import load
from results.tables.measuring import Evidence


def test_the_readme_shows_what_the_rows_give(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert "<!-- table evidence/epochs from evidence_cifar10.jsonl -->" in text
    assert refreshed(text) == text, "make it fresh: python -m results.readme"


def test_a_table_that_was_changed_by_hand_is_put_right(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    changed = re.sub(r"\d\d\.\d ±", "99.9 ±", text)
    assert changed != text
    assert refreshed(changed) == text


def test_a_table_may_take_the_rows_of_two_files() -> None:
    one, two = "evidence_cifar10.jsonl", "evidence_semi.jsonl"
    block = "<!-- table evidence/forty_epochs from {} -->\n<!-- end -->\n"
    three, six = (refreshed(block.format(files)) for files in (one, f"{one} and {two}"))
    assert re.search(r"^\| Fast-MoCo \|.*± \d\.\d\*\* \(3\)", three, re.MULTILINE)
    assert re.search(r"^\| Fast-MoCo \|.*± \d\.\d\*\* \(6\)", six, re.MULTILINE)


def test_measured_rows_are_whole_and_name_no_machine() -> None:
    files = sorted(MEASURED.glob("*.jsonl"))
    assert files
    for file in files:
        store = load([file])
        assert not store.problems
        assert len(store.rows) > 0
        content = file.read_text(encoding="utf-8")
        classified = store.select(metric="top1", rank=0)["run_id"]
        assert all(Evidence(records(store.select(run_id=run_id, rank=0))).correct for run_id in classified)
        assert not re.search(r'"(/|[A-Za-z]:\\\\)[^"]*"', content), "an absolute path of the machine that measured"
