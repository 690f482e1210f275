"""The store: whatever lies under a root, no row is lost and none invented."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.runtime.errors import InputError
from results.row import Metric, Result
from results.store import store
from results.store.lookup import records
from results.tables.measuring import Evidence


def correct(rows: pd.DataFrame) -> list[np.ndarray] | None:
    return Evidence(records(rows)).correct


def kinds(found: store.Store) -> list[str]:
    return [problem.kind for problem in found.problems]


def test_a_campaign_is_read_with_every_column(campaign: Path) -> None:
    found = store.load([campaign])
    assert list(found.rows.columns) == list(store.COLUMNS)
    assert len(found.rows) == 6 + 12 * 2
    assert found.runs["state"].value_counts().to_dict() == {"done": 18, "failed": 1, "unfinished": 1}
    assert kinds(found) == ["failed", "unfinished"]
    assert found.select(task="linear", selection="best", seed=[1])["value"].sum() == 72 + 72.5 + 73 + 71.5 + 72 + 72.5


def test_a_snapshot_and_overlapping_roots_give_the_same(campaign: Path, tmp_path: Path) -> None:
    found = store.load([campaign, campaign / "runs"])
    found.export(tmp_path / "rows.parquet")
    again = store.load([tmp_path / "rows.parquet"])
    pd.testing.assert_frame_equal(again.rows, found.rows)
    pd.testing.assert_frame_equal(again.runs, found.runs)


def test_duplicates_and_foreign_files_are_told_and_not_fatal(campaign: Path, tmp_path: Path) -> None:
    shutil.copytree(campaign, tmp_path / "copy")
    foreign = tmp_path / "copy" / "other"
    foreign.mkdir()
    (foreign / "result.json").write_text('{"accuracy": 3}')
    found = store.load([campaign, tmp_path / "copy"])
    assert len(found.rows) == 30
    assert kinds(found).count("duplicate") == 18
    assert kinds(found).count("foreign") == 1


def test_the_earliest_of_two_differing_results_counts(tmp_path: Path, make_run, write_done) -> None:
    for name, ended, value in (("a", "2026-01-02", 60.0), ("b", "2026-01-01", 50.0)):
        write_done(tmp_path / name, make_run(ended=ended), [Metric(name="top1", value=value)])
    for roots in (["a", "b"], ["b", "a"]):
        found = store.load([tmp_path / name for name in roots])
        assert found.rows["value"].tolist() == [50.0]
        assert "OTHER numbers" in found.problems[0].message


def test_a_root_that_is_none_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no directory or file at"):
        store.load([tmp_path / "absent"])
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match="none of these"):
        store.load([tmp_path / "x.txt"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_truncation_of_a_result_gives_no_row_and_loses_no_other(data: st.DataObject, make_run, write_done) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for seed in range(3):
            write_done(root, make_run(seed=seed), [Metric(name="top1", value=50.0 + seed)])
        victim = sorted(root.rglob("result.json"))[1]
        content = victim.read_bytes()
        victim.write_bytes(content[: data.draw(st.integers(0, len(content.rstrip()) - 1))])
        found = store.load([root])
        assert found.rows["value"].tolist() == [50.0, 52.0]
        assert sorted(kinds(found)) == ["half-written", "unfinished"]
        assert found.runs["state"].tolist() == ["done", "unfinished", "done"]


@settings(max_examples=40, deadline=None)
@given(order=st.lists(st.integers(0, 5), max_size=12), cut=st.integers(0, 400))
def test_any_mix_of_lines_gives_each_run_once(order: list[int], cut: int, make_run) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "rows.jsonl"
        lines = [
            Result(run=make_run(seed=seed), metrics=[Metric(name="top1", value=seed)]).model_dump_json()
            for seed in order
        ]
        torn = Result(run=make_run(seed=9), metrics=[]).model_dump_json()[:cut]
        path.write_text("\n".join([*lines, torn]) + "\n")
        found = store.load([path])
        assert found.rows["value"].tolist() == sorted(set(order))
        assert kinds(found).count("half-written") == bool(torn)


@pytest.mark.long
def test_sixteen_processes_write_a_thousand_runs_while_another_reads(tmp_path: Path, make_run, write_done) -> None:
    context = multiprocessing.get_context("fork")
    (tmp_path / "runs").mkdir()
    per_worker = [63] * 8 + [62] * 8
    starts = [sum(per_worker[:index]) for index in range(16)]
    workers = [
        context.Process(target=_write_range, args=(tmp_path, start, count, make_run, write_done))
        for start, count in zip(starts, per_worker, strict=True)
    ]
    for worker in workers:
        worker.start()
    sizes = []
    while any(worker.is_alive() for worker in workers):
        found = store.load([tmp_path])
        assert set(kinds(found)) <= {"unfinished"}
        assert (found.rows["value"] * 100).round().astype(int).tolist() == found.rows["seed"].tolist()
        sizes.append(len(found.rows))
    assert [worker.exitcode for worker in workers] == [0] * 16
    assert sizes == sorted(sizes)
    assert sorted(store.load([tmp_path]).rows["seed"]) == list(range(1000))


def _write_range(root, start, count, make_run, write_done) -> None:
    for seed in range(start, start + count):
        write_done(root, make_run(seed=seed, ended=None), [Metric(name="top1", value=seed / 100)])


def test_collected_rows_bear_no_trace_of_the_machine(campaign: Path, tmp_path: Path, make_run, write_done) -> None:
    command = ["/home/me/bin/fastmoco", "--out=/scratch/me/run 1", "--catalog", "/data/c.yaml", "see https://x.org/a/b"]
    write_done(
        campaign, make_run(seed=7, command=command), [Metric(name="top1", value=1.0, detail={"at": "/a/b/c.pt"})]
    )
    assert store.collect([campaign], tmp_path / "a.jsonl") == 19
    assert store.collect([campaign / "runs", campaign], tmp_path / "b.jsonl") == 19
    text = (tmp_path / "a.jsonl").read_text()
    assert text == (tmp_path / "b.jsonl").read_text()
    for trace in ("node17", "/home", "/scratch", "/data", "/a/b/c", str(campaign)):
        assert trace not in text
    row = store.load([tmp_path / "a.jsonl"]).select(seed=7).iloc[0]
    assert row["command"] == "fastmoco '--out=run 1' --catalog c.yaml 'see https://x.org/a/b'"


def test_collected_rows_keep_which_samples_were_right(campaign: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    store.collect([campaign], first)
    store.collect([first], second)
    assert first.read_bytes() == second.read_bytes()
    there, collected = store.load([campaign]), store.load([first])
    for label in ("fast_moco", "moco"):
        wanted = {"task": "linear", "checkpoint": label, "selection": "last"}
        ours, theirs = correct(there.select(**wanted)), correct(collected.select(**wanted))
        assert ours is not None
        assert theirs is not None
        assert [unit.shape for unit in theirs] == [(2, 1000)] * 3
        assert all((one == other).all() for one, other in zip(ours, theirs, strict=True))
        assert correct(collected.select(**{**wanted, "selection": "best"})) is None


@pytest.mark.parametrize("harm", ["", "AA==", "no base64 at all", "/w=="])
def test_answers_that_are_not_the_number_s_are_not_used(harm: str, campaign: Path, tmp_path: Path) -> None:
    store.collect([campaign], tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    lines[0]["correct"] = harm
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = store.load([tmp_path / "a.jsonl"])
    assert not found.problems
    assert correct(found.select(run_id=lines[0]["run"]["run_id"], selection="last")) is None
    assert correct(found.select(run_id=lines[1]["run"]["run_id"], selection="last")) is not None


STEPS = ("start", "fail", "temporary", "finish", "copy")


@settings(max_examples=50, deadline=None)
@given(order=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([*STEPS, "read"])), max_size=40))
def test_any_interleaving_of_writers_and_readers(order: list[tuple[int, str]], make_run) -> None:
    """Four writers take their steps in any order: a reader sees exactly the runs whose result has its name."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        finished: set[int] = set()
        for writer, step in [*order, (0, "read")]:
            directory = root / f"run{writer}"
            run = make_run(seed=writer)
            result = Result(run=run, metrics=[Metric(name="top1", value=writer)]).model_dump_json()
            if step == "read":
                found = store.load([root])
                assert found.rows["value"].tolist() == sorted(finished)
                assert set(kinds(found)) <= {"unfinished", "failed", "duplicate"}
                assert set(found.runs.loc[found.runs["state"] == "done", "seed"]) == finished
                continue
            directory.mkdir(exist_ok=True)
            if step == "start":
                (directory / "run.json").write_text(run.model_dump_json())
            elif step == "fail" and (directory / "run.json").exists() and writer not in finished:
                (directory / "failed.json").write_text('{"error": "disk is full", "exit_code": 1}')
            elif step == "temporary":
                (directory / ".result.json.tmp").write_text(result[: len(result) // 2])
            elif step == "finish" and (directory / ".result.json.tmp").exists() and writer not in finished:
                (directory / ".result.json.tmp").write_text(result)
                (directory / ".result.json.tmp").rename(directory / "result.json")
                finished.add(writer)
            elif step == "copy" and writer in finished:
                shutil.copytree(directory, root / "copies" / f"run{writer}", dirs_exist_ok=True)
