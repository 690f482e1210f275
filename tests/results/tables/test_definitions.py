"""Definitions of tables: the package's own, each filled, and what is wrong with one of a user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.runtime.errors import InputError
from results.row import Metric
from results.store import store
from results.tables import html, latex, named, rendering

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


def test_every_table_shows_its_measured_and_published_numbers(cells, everything: store.Store) -> None:
    assert set(FILLED) == set(named.definitions())
    for name, (row, column, value) in FILLED.items():
        built = named.table(name, everything)
        cell = cells(rendering.comma_separated(built))[row, column]
        assert float(cell["measured"]) == pytest.approx(float(value)), name
        # The same number, as its table writes it, in every format.
        i, j = built.rows.index(row), [head.name for head in built.columns].index(column)
        text = rendering.measured_text(built.cells[i][j], built.columns[j])
        assert text in rendering.markdown(built)
        assert text in html.page(built)
        assert text.replace("±", "$\\pm$") in latex.latex(built)
        if name.startswith("paper/") and name != "paper/ablation_grid":
            assert built.has_published
        if name == "paper/linear":
            assert cells(rendering.comma_separated(built))["Fast-MoCo", "100 epochs"]["difference"] == "-0.4"


def test_the_paper_tables_beside_measured_numbers(cells, tmp_path: Path, make_run, write_done) -> None:
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


def test_published_numbers_say_how_near_their_protocol_is(cells, tmp_path: Path) -> None:
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
