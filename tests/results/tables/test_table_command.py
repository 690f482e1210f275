"""`fastmoco table` and `fastmoco report` as they are typed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from benchmarks.campaign.stale import stale
from benchmarks.cli import main
from results.store import store
from results.tables import named, rendering


@pytest.fixture
def fastmoco(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Call it: (exit code, what it printed, what it said on stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_a_snapshot_gives_the_table_that_its_runs_gave(fastmoco, campaign: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "rows.parquet"
    code, first, said = fastmoco("table", "summary", "--root", campaign, "--export", snapshot)
    assert (code, said) == (0, f"wrote {snapshot}\n")
    assert "**62.40 ± 0.40** (3)" in first
    assert fastmoco("table", "summary", "--root", snapshot) == (0, first, "")


def test_wrong_words_are_one_sentence_and_exit_code_2(fastmoco, campaign: Path, tmp_path: Path) -> None:
    for words, sentence in (
        (["summary", "--root", campaign, "--export", "rows.csv"], "must end in .parquet, not 'rows.csv'"),
        (["summary", "--root", tmp_path / "absent"], "no directory or file at"),
        (["sumary", "--root", campaign], "unknown table 'sumary' (did you mean 'summary'?)"),
        (["summary", "--root", campaign, "--trace", "fast_moco"], "a cell is named by ROW,COLUMN, not 'fast_moco'"),
        (["summary", "--root", campaign, "--trace", "moc,x"], "unknown row of the table 'moc' (did you mean 'moco'?)"),
        (["summary", "--root", campaign, "--trace", "moco,knn"], "unknown column of the table 'knn'"),
    ):
        code, told, said = fastmoco("table", *words)
        assert (code, told) == (2, "")
        assert sentence in said
        assert said.count("\n") == 1


def test_a_cell_is_traced_by_labels_that_hold_commas(fastmoco, campaign: Path) -> None:
    code, told, _ = fastmoco("table", "summary", "--root", campaign, "--trace", "fast_moco,linear cifar10 top1, sweep")
    assert code == 0
    assert "measured   71.00 ± 0.50 % (n = 3×2; last), 95 % interval over test samples" in told
    assert told.count("\nrun linear-fast_moco") == 6
    assert told.count("  command  fastmoco evaluate linear --checkpoint") == 6
    assert told.count("  sha256 ") == 6
    published = fastmoco("table", "paper/linear", "--root", campaign, "--trace", "MoCo v3,100 epochs")[1]
    assert "published  68.9 %" in published
    assert "where    github facebookresearch/moco-v3" in published
    failed = fastmoco("table", "summary", "--root", campaign, "--trace", "random,knn cifar10 top1, dino")[1]
    assert "mark       ✗ a run failed" in failed
    assert "error    loss is not finite at step 12" in failed


@pytest.mark.parametrize("format", sorted(named.FORMATS))
def test_every_format_is_written_to_a_file(format: str, fastmoco, campaign: Path, tmp_path: Path) -> None:
    out = tmp_path / "table"
    assert fastmoco("table", "knn", "--root", campaign, "--format", format, "--out", out)[1] == f"wrote {out}\n"
    found = store.load([campaign])
    assert out.read_text(encoding="utf-8") == named.render("knn", found, format=format, stale=stale(found))


def test_a_report_of_several_roots(fastmoco, campaign: Path, tmp_path: Path, make_run, write_done) -> None:
    from results.row import Metric

    write_done(tmp_path / "more", make_run("theirs"), [Metric(name="top1", value=12.34)])
    code, told, _ = fastmoco("report", campaign, tmp_path / "more", "--out", tmp_path / "report.html")
    assert (code, told) == (0, f"wrote {tmp_path / 'report.html'}\n")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "12.34" in page
    assert "62.40 ± 0.40" in page


def test_plots_are_written_as_svg_and_png(fastmoco, full_campaign: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plots"
    code, told, _ = fastmoco("report", full_campaign, "--out", tmp_path / "report.html", "--plots", folder)
    assert code == 0
    names = [
        f"{name}.{kind}" for name in ("every_task", "cost", "curves", "ablation", "epochs") for kind in ("svg", "png")
    ]
    assert told.splitlines()[1:] == [f"wrote {folder / name}" for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert (folder / "cost.svg").read_bytes().startswith(b"<?xml")
    assert (folder / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_bare_table_lists_the_names_and_nothing_found_says_where(fastmoco, campaign: Path, tmp_path: Path) -> None:
    code, told, said = fastmoco("table")
    assert (code, said) == (0, "")
    assert [line.split()[0] for line in told.splitlines()] == named.definitions()
    assert "summary" in told
    code, told, said = fastmoco("table", "summary")
    assert (code, told) == (2, "")
    assert "give --root DIR" in said
    empty = tmp_path / "empty"
    empty.mkdir()
    for words in (["table", "summary", "--root", empty], ["table", "--stale", "--root", empty],
                  ["report", empty, "--out", tmp_path / "no.html"]):  # fmt: skip
        code, told, said = fastmoco(*words)
        assert (code, told) == (2, "")
        assert f"no run found under {empty}, searched to any depth" in said
    assert not (tmp_path / "no.html").exists()
    (tmp_path / "own.yaml").write_text("title: T\ncolumns: auto\ncheckpoints: true\nmeasured: {task: svm}\n")
    code, told, said = fastmoco("table", tmp_path / "own.yaml", "--root", campaign)
    assert (code, told) == (2, "")
    assert f"has nothing to show: none of the 20 runs under {campaign} belongs into it" in said


def test_a_table_on_a_terminal_is_drawn_in_blocks_that_fit(everything: store.Store) -> None:
    from rich.console import Console

    from results.tables import drawn

    for name in named.definitions():
        built = named.table(name, everything)
        console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True)
        drawn.draw(built, console)
        text = console.export_text()
        assert "**" not in text
        assert "|" not in text.partition("- Mean")[0]
        assert "…" not in text.replace("… ", "") or "unfinished" in built.marks
        for label in built.rows:
            assert any(line.startswith(label) for line in text.splitlines()), (name, label)
        for row in built.cells:
            for cell, column in zip(row, built.columns, strict=True):
                assert rendering.measured_text(cell, column) in text
