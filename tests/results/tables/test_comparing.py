"""Which rows of a column are compared, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pretrain.runtime.errors import InputError
from results.row import Data, Metric
from results.store import store
from results.tables import named, rendering


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


def three(tmp_path: Path, make_run, write_done) -> store.Store:
    """Three rows of three pretrainings, 400 test samples: the best, one that is like it, and one far behind."""
    generator = np.random.default_rng(5)
    for label, level in (("best", 0.70), ("near", 0.69), ("far", 0.40)):
        for pretraining in range(3):
            right = generator.random(400) < level
            metric = Metric(name="top1", value=100 * float(right.mean()), n=400)
            write_done(tmp_path / "root", make_run(label, pretrain_seed=pretraining), [metric], right)
    return store.load([tmp_path / "root"])


def test_each_number_says_how_far_it_is_from_the_best(cells, tmp_path: Path, make_run, write_done) -> None:
    found = three(tmp_path, make_run, write_done)
    by_row = {row: cell for (row, _), cell in cells(named.render("knn", found, format="csv")).items()}
    best = max(by_row, key=lambda row: float(by_row[row]["measured"]))
    assert by_row[best]["versus"] == ""
    others = [row for row in by_row if row != best]
    p_values = {row: float(by_row[row]["p"]) for row in others}
    for row in others:
        cell = by_row[row]
        difference = float(cell["measured"]) - float(by_row[best]["measured"])
        assert (cell["versus"], float(cell["versus_difference"])) == ("best", pytest.approx(difference, abs=1e-3))
        assert float(cell["versus_low"]) < difference < float(cell["versus_high"])
        assert (float(cell["versus_high"]) < 0) == (p_values[row] < 0.05)
        # Holm by hand: the smaller of two p values counts twice, the larger is at least that.
        smallest = min(1.0, 2 * min(p_values.values()))
        holm = smallest if p_values[row] == min(p_values.values()) else max(smallest, p_values[row])
        assert float(cell["p_holm"]) == pytest.approx(holm, rel=1e-4)
        assert cell["bold"] == str(int(holm >= 0.05))
        told = named.trace("knn", found, f"{row},knn cifar10 top1, dino")
        assert f"to best    {rendering.number(difference, 2, signed=True)} (" in told
        assert "(t test over test samples and pretrainings; Holm over 2)" in told
    assert by_row["far"]["bold"] == "0"


def test_a_table_against_a_row_shows_differences_intervals_and_p(cells, tmp_path: Path, make_run, write_done) -> None:
    found = three(tmp_path, make_run, write_done)
    by_row = {row: c for (row, _), c in cells(named.render("knn", found, format="csv", against="near")).items()}
    far = by_row["far"]
    assert far["versus"] == "near"
    assert float(far["versus_difference"]) == pytest.approx(
        float(far["measured"]) - float(by_row["near"]["measured"]), abs=1e-3
    )
    built = named.table("knn", found, against="near")
    written = {
        label: rendering.shown_text(line[0], built.columns[0], built)
        for label, line in zip(built.rows, built.cells, strict=True)
    }
    low, high, p = (float(far[key]) for key in ("versus_low", "versus_high", "p_holm"))
    ends = [rendering.number(value, built.columns[0].digits) for value in (low, high)]
    assert written["far"].endswith(f"({ends[0]} to {ends[1]}), p {rendering.p_text(p)}")
    assert "±" in written["near"]
    text = rendering.markdown(built)
    assert "**" + written["far"] in text
    assert "- Bold: differs from near (Holm-corrected, p \\< 0.05)." in text
    assert "2 comparisons with near by a t test over 400 test samples and pretrainings." in text
    with pytest.raises(InputError, match=r"unknown row of the table 'nera' \(did you mean 'near'"):
        named.render("knn", found, format="md", against="nera")


def test_bold_does_not_turn_with_anything_drawn(tmp_path: Path, make_run, write_done) -> None:
    found = three(tmp_path, make_run, write_done)
    np.random.seed(1)
    first = named.render("knn", found, format="csv")
    np.random.seed(2)
    assert named.render("knn", found, format="csv") == first


@pytest.mark.parametrize(("p", "text"), [(0.0498, "0.0498"), (0.0502, "0.05"), (0.05, "0.05"), (0.8, "0.80"),
                                         (0.003, "0.003"), (0.0004, "< 0.001"), (1.0, "1.00")])  # fmt: skip
def test_p_is_never_rounded_across_the_level(p: float, text: str) -> None:
    assert rendering.p_text(p) == text


def test_evaluations_that_agree_count_as_one(tmp_path: Path, make_run, write_done) -> None:
    """Nearest neighbours give the same number for every seed, which read '62.40 ± 0.00 (1×3)'."""
    for seed in range(3):
        write_done(tmp_path / "root", make_run("one", seed=seed), [Metric(name="top1", value=62.4)])
        for pretraining, value in enumerate((50.0, 52.0)):
            run = make_run("two", seed=seed, pretrain_seed=pretraining)
            write_done(tmp_path / "root", run, [Metric(name="top1", value=value)])
        linear = make_run("one", task="linear", seed=seed)
        write_done(tmp_path / "root", linear, [Metric(name="top1", value=70.0 + seed)])
    text = named.render("summary", store.load([tmp_path / "root"]), format="md")
    assert "| one | 62.40 (1) | 71.00 ± 1.00 (1×3) |" in text
    assert "| two | 51.00 ± 1.41 (2) | – |" in text


def test_two_drawings_of_random_weights_count_as_two(tmp_path: Path, make_run, write_done) -> None:
    """Drawn with seeds of their own and evaluated with the same seed, they were taken for one pretraining."""
    for draw, value in enumerate((30.0, 34.0)):
        weights = {"ref": "random:cifar_resnet20", "sha256": None, "pretrain_seed": draw}
        for seed in range(2):
            run = make_run("random", seed=seed, checkpoint=weights, run_id=f"r{draw}{seed}")
            write_done(tmp_path / "root", run, [Metric(name="top1", value=value + seed)])
    text = named.render("summary", store.load([tmp_path / "root"]), format="md")
    assert "| random | 32.50 ± 2.83 (2×2) |" in text
