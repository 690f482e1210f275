"""Tables: numbers computed by hand, marks, refusals, the same bytes for the same rows, and LaTeX that compiles."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from pretrain.errors import InputError
from results import store, tables
from results.row import Metric

GOLDEN = """\
|  | knn cifar10 top1, dino (%) | linear cifar10 top1, sweep (%) |
|:--|--:|--:|
| fast\\_moco | **62.40 ± 0.40** (3) | **71.00 ± 0.50** (3×2) |
| moco | 56.40 ± 0.40 (3) | **70.50 ± 0.50** (3×2) |
| random | ✗ | … |
"""


def cells(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(text))}


def test_the_summary_by_hand(campaign: Path) -> None:
    text = tables.render("summary", store.load([campaign]), format="md")
    assert GOLDEN in text
    assert "1 comparison with the best by paired bootstrap over 1,000 test samples and pretrainings." in text


@pytest.mark.parametrize("format", sorted(tables.FORMATS))
@pytest.mark.parametrize("name", tables.definitions())
def test_same_rows_same_bytes(name: str, format: str, campaign: Path, tmp_path: Path) -> None:
    found = store.load([campaign])
    found.export(tmp_path / "rows.parquet")
    text = tables.render(name, found, format=format)
    assert text == tables.render(name, store.load([tmp_path / "rows.parquet"]), format=format)


def test_the_paper_tables_beside_measured_numbers(tmp_path: Path, make_run, write_done) -> None:
    for seed, value in enumerate((73.0, 73.2)):
        weights = {"label": "ours", "backbone": "resnet50", "epoch": 100}
        run = make_run(task="linear", data="imagenet", pretrain_seed=seed, checkpoint=weights)
        write_done(tmp_path, run, [Metric(name="top1", value=value, n=50000)])
    text = tables.render("paper/linear", store.load([tmp_path]), format="csv")
    cell = cells(text)["Fast-MoCo", "100 epochs"]
    assert (cell["published"], cell["measured"], cell["std"], cell["difference"]) == (
        "73.5",
        "73.1",
        "0.141421",
        "-0.4",
    )
    assert cells(text)["MoCo v3", "200 epochs"]["published"] == ""


def test_best_on_test_is_marked_and_never_compared(tmp_path: Path, make_run, write_done) -> None:
    for label, selection in (("a", "last"), ("b", "best")):
        write_done(tmp_path, make_run(label), [Metric(name="top1", value=50, selection=selection)])
    definition = tmp_path / "mine.yaml"
    definition.write_text(
        "title: Mine\nmeasured: {task: knn}\ncheckpoints: true\ncolumns: [{label: kNN, measured: {metric: top1}}]\n"
    )
    text = tables.render(str(definition), store.load([tmp_path]), format="md")
    assert "| b | 50.0 (1) † |" in text
    assert "†: the best epoch on the test set" in text


def test_a_mean_over_two_protocols_is_refused_with_the_reason(tmp_path: Path, make_run, write_done) -> None:
    for seed, protocol in enumerate(("dino", "vissl")):
        write_done(tmp_path, make_run(seed=seed, protocol=protocol), [Metric(name="top1", value=50)])
    definition = tmp_path / "mine.yaml"
    definition.write_text("title: M\ncheckpoints: true\ncolumns: [{label: kNN, measured: {task: knn}}]\n")
    text = tables.render(str(definition), store.load([tmp_path]), format="md")
    assert "| ours | ≠ |" in text
    assert "these runs differ in protocol (dino, vissl)" in text
    summary = tables.table("summary", store.load([tmp_path]))
    assert [column.label[2] for column in summary.columns] == ["top1, dino", "top1, vissl"]


def test_a_wrong_definition_names_its_line(tmp_path: Path, campaign: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: M\ncolumns: auto\nmeasured: {tusk: knn}\n")
    with pytest.raises(InputError, match=r"mine.yaml:3: .*unknown column of the store 'tusk' \(did you mean 'task'"):
        tables.render(str(path), store.load([campaign]), format="md")
    with pytest.raises(InputError, match="unknown table 'sumary'"):
        tables.render("sumary", store.load([campaign]), format="md")


def test_trace_leads_to_runs_weights_and_commands(campaign: Path) -> None:
    text = tables.trace("summary", store.load([campaign]), "fast_moco", "KNN cifar10 top1, dino")
    assert "measured   62.40 ± 0.40 % (n = 3; last)" in text
    assert text.count("command  fastmoco evaluate knn") == 3
    with pytest.raises(InputError, match="unknown row of the table"):
        tables.trace("summary", store.load([campaign]), "mocoo", "knn cifar10 top1, dino")


@pytest.mark.tex
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs Debian's package texlive-latex-recommended")
def test_latex_compiles(campaign: Path, tmp_path: Path) -> None:
    found = store.load([campaign])
    body = "\n".join(tables.render(name, found, format="latex") + "\\clearpage" for name in tables.definitions())
    source = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
    (tmp_path / "t.tex").write_text(source, encoding="ascii")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000
