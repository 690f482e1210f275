"""Tables: numbers computed by hand, marks, refusals, the same bytes for the same rows, and LaTeX that compiles."""

from __future__ import annotations

import csv
import html
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pretrain.runtime.errors import InputError
from results.row import Data, Metric
from results.store import store
from results.tables import named, rendering
from results.tables.table import MEANINGS

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
    text = named.render("summary", store.load([campaign]), format="md")
    assert GOLDEN in text
    how = "1 comparison with the best by paired bootstrap over 1,000 test samples and pretrainings."
    # Said once for the columns of which it is true.
    assert f"\n- knn cifar10 top1, dino; linear cifar10 top1, sweep: {how}\n" in text


@pytest.mark.parametrize("format", sorted(named.FORMATS))
@pytest.mark.parametrize("name", named.definitions())
def test_same_rows_same_bytes(name: str, format: str, campaign: Path, tmp_path: Path) -> None:
    found = store.load([campaign])
    found.export(tmp_path / "rows.parquet")
    text = named.render(name, found, format=format)
    assert text == named.render(name, store.load([tmp_path / "rows.parquet"]), format=format)


def test_the_paper_tables_beside_measured_numbers(tmp_path: Path, make_run, write_done) -> None:
    for seed, value in enumerate((73.0, 73.2)):
        weights = {"label": "ours", "backbone": "resnet50", "epoch": 100}
        run = make_run(task="linear", data="imagenet", pretrain_seed=seed, checkpoint=weights)
        write_done(tmp_path, run, [Metric(name="top1", value=value, n=50000)])
    text = named.render("paper/linear", store.load([tmp_path]), format="csv")
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
    text = named.render(str(definition), store.load([tmp_path]), format="md")
    assert "| b | 50.0 (1) † |" in text
    assert "†: the best epoch on the test set" in text


def test_a_mean_over_two_protocols_is_refused_with_the_reason(tmp_path: Path, make_run, write_done) -> None:
    for seed, protocol in enumerate(("dino", "vissl")):
        write_done(tmp_path, make_run(seed=seed, protocol=protocol), [Metric(name="top1", value=50)])
    definition = tmp_path / "mine.yaml"
    definition.write_text("title: M\ncheckpoints: true\ncolumns: [{label: kNN, measured: {task: knn}}]\n")
    text = named.render(str(definition), store.load([tmp_path]), format="md")
    assert "| ours | ≠ |" in text
    assert "these runs differ in protocol (dino, vissl)" in text
    summary = named.table("summary", store.load([tmp_path]))
    assert [column.label[2] for column in summary.columns] == ["top1, dino", "top1, vissl"]


def test_rows_of_other_test_samples_are_not_compared(tmp_path: Path, make_run, write_done) -> None:
    for label, identity in (("a", "1"), ("b", "2")):
        run = make_run(label, checkpoint={"sha256": None}).model_copy(
            update={"data": Data(name="x", identity=identity)}
        )
        write_done(tmp_path, run, [Metric(name="top1", value=50)])
    definition = tmp_path / "mine.yaml"
    definition.write_text("title: M\ncheckpoints: true\ncolumns: [{label: kNN, measured: {task: knn}}]\n")
    text = named.render(str(definition), store.load([tmp_path]), format="md")
    reason = "kNN: nothing is bold. These runs differ in content of the data set (1, 2)"
    assert reason in text
    assert "**50" not in text


def test_a_wrong_definition_names_its_line(tmp_path: Path, campaign: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("title: M\ncolumns: auto\nmeasured: {tusk: knn}\n")
    with pytest.raises(InputError, match=r"mine.yaml:3: .*unknown column of the store 'tusk' \(did you mean 'task'"):
        named.render(str(path), store.load([campaign]), format="md")
    with pytest.raises(InputError, match="unknown table 'sumary'"):
        named.render("sumary", store.load([campaign]), format="md")


def test_a_filter_may_name_any_column(tmp_path: Path, campaign: Path, make_run) -> None:
    row = make_run(campaign="small")
    values = {"campaign": row.campaign, "host": row.host, "device": row.device, "code_version": row.code_version}
    for column, value in values.items():
        (tmp_path / "own.yaml").write_text(
            f"title: t\nmeasured: {{task: knn, {column}: {value}}}\ncolumns: auto\ncheckpoints: true\n"
        )
        text = named.render(str(tmp_path / "own.yaml"), store.load([campaign]), format="md")
        assert "fast\\_moco | **62.4 ± 0.4** (3) |" in text
        (tmp_path / "own.yaml").write_text(f"title: t\nmeasured: {{{column}: other}}\ncolumns: auto\nrows: []\n")
        assert "62.4" not in named.render(str(tmp_path / "own.yaml"), store.load([campaign]), format="md")


def test_trace_leads_to_runs_weights_and_commands(campaign: Path) -> None:
    text = named.trace("summary", store.load([campaign]), "fast_moco, KNN cifar10 top1, dino")
    assert "measured   62.40 ± 0.40 % (n = 3; last)" in text
    assert text.count("command  fastmoco evaluate knn") == 3
    with pytest.raises(InputError, match="unknown row of the table"):
        named.trace("summary", store.load([campaign]), "mocoo,knn cifar10 top1, dino")


MARKED = """\
| fast\\_moco | 70.0 (1) ‡ |
| fine | 60.0 (1) |
| mixed | ≠ |
| picked | 62.0 (1) † |
| tuned | 61.0 (1) § |
| lost | ✗ |
| waiting | … |
"""


@pytest.fixture
def marked(tmp_path: Path, make_run, write_done, write_failed_run) -> tuple[str, store.Store]:
    """A definition and runs that bring every mark of our own numbers."""
    root = tmp_path / "marked"
    for label, selection, value in (("fine", "last", 60), ("tuned", "held_out", 61), ("picked", "best", 62)):
        write_done(root, make_run(label), [Metric(name="top1", value=value, selection=selection)])
    write_done(root, make_run("fast_moco", protocol="vissl"), [Metric(name="top1", value=70)])
    for seed, k in ((0, 10), (1, 20)):
        run = make_run("mixed", seed=seed, values={"k": k})
        write_done(root, run, [Metric(name="top1", value=50)])
    write_failed_run(root, make_run("lost"), "the disk is full", "")
    write_failed_run(root, make_run("waiting"), None, "")
    definition = tmp_path / "mine.yaml"
    definition.write_text(
        "title: Mine\nprotocol: [dino]\ncheckpoints: true\nmeasured: {task: knn}\n"
        "columns: [{label: kNN, measured: {metric: top1}}]\n"
    )
    return str(definition), store.load([root])


def test_every_mark_with_its_legend(marked: tuple[str, store.Store]) -> None:
    name, found = marked
    text = named.render(name, found, format="md")
    assert MARKED in text
    table = named.table(name, found)
    assert table.marks == ["failed", "unfinished", "off_protocol", "best", "held_out", "refused"]
    for mark in table.marks:
        symbol = rendering.SYMBOLS[mark]
        assert f"- {symbol}: {MEANINGS[mark]}." in text
        page = html.unescape(named.render(name, found, format="html"))
        assert f'title="{MEANINGS[mark]}">{symbol}</abbr>' in page
    assert "lost, kNN: knn-lost-cifar10-dino-p0-s0 failed: the disk is full" in text
    assert "mixed, kNN: these runs differ in setting of the protocol" in text
    written = cells(named.render(name, found, format="csv"))
    assert {row: cell["marks"] for (row, _), cell in written.items()} == {
        "fast_moco": "off_protocol", "fine": "", "lost": "failed", "mixed": "refused", "picked": "best",
        "tuned": "held_out", "waiting": "unfinished",
    }  # fmt: skip
    assert not any(int(cell["bold"]) for cell in written.values())


def test_rows_are_compared_across_a_setting_only_where_the_table_says_it_was_chosen_for_each(
    tmp_path: Path, make_run, write_done
) -> None:
    for label, lr, values in (("a", 0.6, (60, 61, 62)), ("b", 0.2, (50, 51, 52))):
        for pretraining, value in enumerate(values):
            settings = {"trunk_lr": {"ten": lr}, "momentum": 0.9}
            run = make_run(label, task="semi", pretrain_seed=pretraining, values=settings)
            write_done(tmp_path / "root", run, [Metric(name="top1", value=value)])
    found = store.load([tmp_path / "root"])

    def rendered(tuned: str) -> str:
        definition = tmp_path / "mine.yaml"
        definition.write_text(
            "title: Mine\ncheckpoints: true\nmeasured: {task: semi}\n"
            f"columns: [{{label: semi, measured: {{metric: top1}}{tuned}}}]\n"
        )
        return named.render(str(definition), found, format="md")

    refused = "nothing is bold. These runs differ in setting of the protocol"
    assert refused in rendered("")
    assert refused in rendered(", tuned: [momentum]")
    text = rendered(", tuned: [trunk_lr.ten]")
    assert "| a | **61.0 ± 1.0** (3) |" in text
    assert "| b | 51.0 ± 1.0 (3) |" in text
    assert "- semi: 1 comparison with the best by " in text
    assert "; each row at the trunk\\_lr.ten chosen for it." in text


def test_published_numbers_say_how_near_their_protocol_is(tmp_path: Path) -> None:
    tmp_path.joinpath("empty").mkdir()
    nothing = store.load([tmp_path / "empty"])
    linear = named.render("paper/linear", nothing, format="md")
    assert "| BYOL | 66.5 ≈ [1] | 70.6 ≈ [1] | 73.2 ≈ [1] |" in linear
    assert "| Fast-MoCo | 73.5 [4] | 75.1 [4] | 75.5 [4] |" in linear
    assert "- ≈: published under a protocol that is only near ours, or does not say enough to tell." in linear
    semi = named.render("paper/semi", nothing, format="md")
    assert "| Supervised | 25.4 ¶ [1] | 56.4 ¶ [1] |" in semi
    assert "| Fast-MoCo | – | – |" in semi
    assert "≈" not in named.render("paper/voc_detection", nothing, format="md")
    assert (
        cells(named.render("paper/semi", nothing, format="csv"))["BYOL", "1 % of labels"]["published_match"] == "near"
    )


# For each table: a row, a column and the measured number that must stand there, from the runs of `everything`.
FILLED = {
    "summary": ("fast_moco", "knn cifar10 top1, dino", "62.4"),
    "knn": ("moco", "knn cifar10 top1, dino", "56.4"),
    "transfer": ("moco", "linear cifar10 top1, sweep", "70.5"),
    "cost": ("tiny", "time", "2.01"),
    "paper/linear": ("Fast-MoCo", "100 epochs", "73.1"),
    "paper/ablation_grid": ("2 × 2", "r = 2", "65"),
    "paper/semi": ("Fast-MoCo", "10 % of labels", "66"),
    "paper/voc_detection": ("Fast-MoCo", "AP50", "82.5"),
    "paper/coco": ("Fast-MoCo", "mask AP", "34.5"),
    "paper/segmentation": ("Fast-MoCo", "Cityscapes", "76"),
    "evidence/epochs": ("Fast-MoCo", "linear 20", "51.5"),
    "evidence/ablation": ("2 × 2, r = 3", "linear", "49.5"),
    "evidence/forty_epochs": ("Fast-MoCo", "kNN", "47.5"),
    "evidence/semi_lrs": ("random weights", "trunk 0.2, head 0.05", "43.5"),
    "evidence/tenth_of_labels": ("one positive a view (MoCo)", "fine-tuned 5,000 labels", "54.5"),
}


@pytest.fixture
def everything(full_campaign: Path, make_run, write_done) -> store.Store:
    weights = {"backbone": "resnet50", "epoch": 100}
    for task, data, protocol, values, metrics in (
        ("semi", "imagenet", "simclr", {"labels": "10percent"}, {"top1": 66}),
        ("detection", "voc0712", "voc0712_r50_c4_24k", {}, {"AP": 57, "AP50": 82.5, "AP75": 64}),
        ("detection", "coco2017", "coco_r50_fpn_1x", {}, {"AP": 39, "mask_AP": 34.5}),
        ("segmentation", "cityscapes", "cityscapes_fcn_40k", {}, {"mIoU": 76}),
    ):
        run = make_run("r50", task=task, data=data, protocol=protocol, values=values, checkpoint=weights)
        write_done(full_campaign, run, [Metric(name=name, value=value) for name, value in metrics.items()])
    lrs = {"trunk_lr": {"ten": 0.2}, "head_lr": {"ten": 0.05}}
    for campaign, label, task, value, of, protocol in (
        ("evidence_cifar10", "fast_moco_e20", "linear", 51.5, {}, {}),
        ("evidence_ablation", "r3", "linear", 49.5, {}, {}),
        ("evidence_semi", "fast_moco_e40", "knn", 47.5, {"epoch": 40, "method": "fast_moco"}, {}),
        ("evidence_semi_tuning", "random", "semi", 43.5, {}, {"values": lrs}),
        ("evidence_semi", "moco", "semi", 54.5, {}, {}),
    ):
        run_id = f"{campaign}-{label}"
        run = make_run(label, task=task, campaign=campaign, run_id=run_id, checkpoint=of, **protocol)
        write_done(full_campaign, run, [Metric(name="top1", value=value)])
    made = make_run(kind="pretrain", task="pretrain", protocol="tiny", run_id="pretrain-tiny", wall_s=7236.0)
    write_done(full_campaign, made.model_copy(update={"checkpoint": None}), [Metric(name="loss", value=1, unit="")])
    return store.load([full_campaign])


def test_every_table_shows_its_measured_and_published_numbers(everything: store.Store) -> None:
    assert set(FILLED) == set(named.definitions())
    for name, (row, column, value) in FILLED.items():
        cell = cells(named.render(name, everything, format="csv"))[row, column]
        assert float(cell["measured"]) == pytest.approx(float(value)), name
        # The same number, as its table writes it, in every format.
        built = named.table(name, everything)
        i, j = built.rows.index(row), [head.name for head in built.columns].index(column)
        text = rendering.measured_text(built.cells[i][j], built.columns[j])
        assert text in named.render(name, everything, format="md")
        assert text in named.render(name, everything, format="html")
        assert text.replace("±", "$\\pm$") in named.render(name, everything, format="latex")
        if name.startswith("paper/") and name != "paper/ablation_grid":
            assert built.has_published
    assert (
        cells(named.render("paper/linear", everything, format="csv"))["Fast-MoCo", "100 epochs"]["difference"] == "-0.4"
    )


def test_cost_calls_variants_of_a_recipe_as_their_measurements_do(full_campaign: Path, make_run, write_done) -> None:
    for seed in range(2):
        changes = {"kind": "pretrain", "task": "pretrain", "protocol": "tiny", "run_id": f"unmeasured-{seed}"}
        run = make_run(values={"grid": seed + 1}, **changes).model_copy(update={"checkpoint": None})
        write_done(full_campaign, run, [Metric(name="loss", value=1, unit="")])
    built = named.table("cost", store.load([full_campaign]))
    hours = {row: cell[0].measured.mean for row, cell in zip(built.rows, built.cells, strict=True) if cell[0].measured}
    assert hours["fast_moco"] == pytest.approx(2.01)
    assert hours["moco"] == pytest.approx(1.01)
    assert {"g1c1", "g2c1", "g2c2", "g3c3"} < set(hours)
    assert len([row for row in hours if row.startswith("tiny#")]) == 2
    assert not built.marks


@pytest.mark.parametrize("name", named.definitions())
def test_markdown_renders_as_a_table_of_the_same_shape(name: str, everything: store.Store) -> None:
    # markdown-it-py is what rich reads Markdown with, so it is always there.
    page = MarkdownIt("commonmark").enable("table").render(named.render(name, everything, format="md"))
    lines = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    built = named.table(name, everything)
    assert len(lines) == 1 + len(built.rows)
    width = 1 + len(built.columns) * len(rendering.parts(built))
    assert {len(re.findall(r"<t[hd]", line)) for line in lines} == {width}
    assert page.count("<table>") == 1
    assert page.count("<strong>") == 1 + sum(cell.bold for row in built.cells for cell in row)


@pytest.mark.tex
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs Debian's package texlive-latex-recommended")
def test_latex_compiles(everything: store.Store, marked: tuple[str, store.Store], tmp_path: Path) -> None:
    """Every table by itself on a page of its own, with every mark, and each of them in the text of the PDF's source."""
    own, found = marked
    texts = [named.render(name, everything, format="latex") for name in named.definitions()]
    texts.append(named.render(own, found, format="latex"))
    for index, body in enumerate(texts):
        source = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + body + "\\end{document}\n"
        (tmp_path / f"t{index}.tex").write_text(source, encoding="ascii")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"t{index}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / f"t{index}.pdf").stat().st_size > 10_000
