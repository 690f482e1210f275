"""What stands in a table's cells: numbers computed by hand, marks and their reasons, labels, the same bytes again."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from pretrain.runtime.errors import InputError
from results.row import Metric
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


def test_the_summary_by_hand(campaign: Path) -> None:
    text = named.render("summary", store.load([campaign]), format="md")
    assert GOLDEN in text
    how = "1 comparison with the best by a t test over 1,000 test samples and pretrainings."
    # Said once for the columns of which it is true.
    assert f"\n- Each column: {how}\n" in text


@pytest.mark.parametrize("format", sorted(named.FORMATS))
@pytest.mark.parametrize("name", named.definitions())
def test_same_rows_same_bytes(name: str, format: str, campaign: Path, tmp_path: Path) -> None:
    found = store.load([campaign])
    found.export(tmp_path / "rows.parquet")
    text = named.render(name, found, format=format)
    assert text == named.render(name, store.load([tmp_path / "rows.parquet"]), format=format)


MARKED = """\
| fast\\_moco | 70.0 (1) ‡ |
| fine | 60.0 (1) |
| mixed | ≠ |
| picked | 62.0 (1) † |
| tuned | 61.0 (1) § |
| lost | ✗ |
| waiting | … |
"""


def test_every_mark_with_its_legend(cells, marked: tuple[str, store.Store]) -> None:
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
    assert {"tiny, grid 1", "tiny, grid 2"} < set(hours)
    assert not built.marks


def test_trace_leads_to_runs_weights_and_commands(campaign: Path) -> None:
    text = named.trace("summary", store.load([campaign]), "fast_moco, KNN cifar10 top1, dino")
    assert "measured   62.40 ± 0.40 % (n = 3; last)" in text
    assert text.count("command  fastmoco evaluate knn") == 3
    with pytest.raises(InputError, match="unknown row of the table"):
        named.trace("summary", store.load([campaign]), "mocoo,knn cifar10 top1, dino")
