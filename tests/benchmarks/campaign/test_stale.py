"""Runs that today's code would do otherwise: told by the settings they were done with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.campaign.stale import stale
from benchmarks.cli import main
from evaluate.task import resolve_protocol
from pretrain.recipes import resolve_recipe
from results.row import Checkpoint, Data, Metric, Protocol, Result, Run, write_result
from results.store.store import load


def write(root: Path, run_id: str, settings: dict[str, Any], command: list[str], **changes: Any) -> None:
    kind = changes.pop("kind", "evaluate")
    directory = root / run_id
    directory.mkdir(parents=True)
    task = "pretrain" if kind == "pretrain" else "knn"
    weights = None if kind == "pretrain" else Checkpoint(label="ours", ref=changes.pop("ref", "a.pth"), sha256="0" * 64)
    run = Run(
        run_id=run_id, kind=kind, task=task, protocol=Protocol(name=settings["name"], values=settings), seed=0,
        checkpoint=weights, data=Data(name="cifar10", identity="d"), command=command,
    )  # fmt: skip
    write_result(directory, Result(run=run, metrics=[Metric(name="top1", value=50.0)]))


def knn(**changes: Any) -> dict[str, Any]:
    return resolve_protocol("knn", "dino", changes).model_dump(mode="json")


COMMAND = ["fastmoco", "evaluate", "knn", "--checkpoint", "a.pth", "--protocol", "dino"]


def test_a_run_is_stale_where_its_protocol_resolves_otherwise(tmp_path: Path) -> None:
    write(tmp_path, "today", knn(), COMMAND)
    # What somebody set on purpose is no change of the code's, and prose changes nothing.
    write(tmp_path, "set", knn(temperature=0.2) | {"source": "elsewhere"}, [*COMMAND, "--set", "temperature=0.2"])
    write(tmp_path, "changed", knn() | {"temperature": 0.2}, COMMAND)
    write(tmp_path, "renamed", knn() | {"name": "dino_v0"}, COMMAND)
    fewer = knn()
    del fewer["k"]
    write(tmp_path, "older", fewer, ["worker.py", "older"])
    write(tmp_path, "worker", knn() | {"temperature": 0.2}, ["worker.py", "worker"])
    write(tmp_path, "gone", knn() | {"whitened": True}, ["worker.py", "gone"])
    found = stale(load([tmp_path]))
    assert set(found) == {"changed", "renamed", "older", "gone"}
    assert found["changed"] == "protocol of knn dino: temperature 0.2 then, 0.07 now"
    assert "unknown protocol of knn 'dino_v0' (did you mean 'dino'?)" in found["renamed"]
    assert found["older"] == "protocol of knn dino: k nothing then, 20 now"
    assert found["gone"] == "protocol of knn dino takes other fields now: whitened"


def test_what_measures_stale_weights_is_stale_with_them(tmp_path: Path) -> None:
    recipe = resolve_recipe("cifar_resnet20_e20").model_dump(mode="json")
    command = ["fastmoco", "pretrain", "--recipe", "cifar_resnet20_e20"]
    write(tmp_path, "old", recipe | {"momentum": 0.5, "workers": 7}, command, kind="pretrain")
    write(tmp_path, "new", recipe | {"workers": 7}, command, kind="pretrain")
    write(tmp_path, "of_old", knn(), COMMAND, ref="run:old")
    write(tmp_path, "of_new", knn(), COMMAND, ref="run:new")
    found = stale(load([tmp_path]))
    assert set(found) == {"old", "of_old"}
    assert found["of_old"] == f"its weights: {found['old']}"
    assert found["old"].startswith("recipe cifar_resnet20_e20: momentum 0.5 then, ")


def test_tables_and_the_report_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "runs", "changed", knn() | {"temperature": 0.2}, COMMAND)
    write(tmp_path / "runs", "today", knn(), [*COMMAND, "--seed", "1"])

    def told(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    text = told("table", "summary", "--root", tmp_path / "runs")
    # The two protocols stand in columns that say the setting in which they differ.
    assert "knn cifar10 top1, dino, temperature 0.2 (%) | knn cifar10 top1, dino, temperature 0.07 (%)" in text
    assert "| ours | 50.00 (1) ◊ | 50.00 (1) |" in text
    assert "◊: measured by settings that today's code resolves otherwise" in text
    assert text.count("temperature 0.2 then, 0.07 now") == 1
    traced = told(
        "table", "summary", "--root", tmp_path / "runs", "--trace", "ours,knn cifar10 top1,dino,temperature 0.2"
    )
    assert "mark       ◊ measured by settings" in traced
    assert told("table", "--stale", "--root", tmp_path / "runs") == (
        "changed: protocol of knn dino: temperature 0.2 then, 0.07 now\n1 of 2 runs would be done otherwise today\n"
    )
    told("report", tmp_path / "runs", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 2 runs; running them again gives new runs." in page
    assert "<strong>changed</strong> protocol of knn dino: temperature 0.2 then, 0.07 now" in page


@pytest.mark.long
def test_the_committed_rows_are_held_against_today_s_code(repository: Path) -> None:
    command = [sys.executable, "-m", "results.readme", "--stale"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    count, of = (int(word) for word in last.split()[:3:2])
    runs = {json.loads(line)["run"]["run_id"] for file in (repository / "results" / "measured").glob("*.jsonl")
            for line in file.read_text(encoding="utf-8").splitlines()}  # fmt: skip
    assert (len(lines), len(runs)) == (count, of)
    assert {line.partition(": ")[0] for line in lines} <= runs
