"""Every block that a page marks as runnable runs, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
RUNNABLE = [page for page in sorted(DOCS.rglob("*.md")) if "<!-- run" in page.read_text(encoding="utf-8")]
HERE = [page for page in RUNNABLE if "<!-- run slurm" not in page.read_text(encoding="utf-8")]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.long
@pytest.mark.parametrize("page", HERE, ids=name_of)
def test_the_blocks_of_a_page_run(run_blocks: ModuleType, tmp_path: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    _, wrong = run_blocks.run_page(text, tmp_path)
    assert not wrong, "\n".join([*wrong, f"make it fresh: python docs/run_blocks.py --write docs/{name_of(page)}"])


def test_an_output_may_differ_in_times_and_numbers_alone(run_blocks: ModuleType) -> None:
    shown = "12:00:01 done, loss 4.83 (0:00:56)\ntop1 14.00 %\n...\n5 runs: 5 done\n"
    real = "23:59:59 done, loss 4.9 (1:00:02)\ntop1 9.25 %\nmore\nand more\n5 runs: 5 done\n"
    assert (
        run_blocks.merged(shown, real)
        == "23:59:59 done, loss 4.9 (1:00:02)\ntop1 9.25 %\n...\n5 runs: 5 done\n"
    )  # fmt: skip
    assert run_blocks.merged(shown, real.replace("5 runs", "4 runs")) is None
    assert run_blocks.merged(shown, real.replace("loss", "lost")) is None
    assert run_blocks.merged(shown, real + "one line too many\n") is None


def test_a_wrong_output_and_a_wrong_exit_code_are_told_and_can_be_put_right(
    run_blocks: ModuleType, tmp_path: Path
) -> None:
    page = "<!-- file a.txt -->\n```text\none\n```\n\n<!-- run exit=3 -->\n```bash\ncat a.txt\nexit 4\n```\n\n"
    page += "<!-- output -->\n```text\ntwo\n```\n"
    fresh, wrong = run_blocks.run_page(page, tmp_path)
    assert fresh == page.replace("two", "one")
    assert [sentence.splitlines()[0] for sentence in wrong] == [
        "line 8: exit code 4, expected 3",
        "line 14: the output is",
    ]
