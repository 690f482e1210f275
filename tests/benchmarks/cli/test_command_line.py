from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FASTMOCO = Path(sys.executable).with_name("fastmoco")
SMALL = [
    *("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "global_batch_size=32", "--set", "views.size=16"),
    *("--set", "train_images=null"),
    *("--set", "projector.hidden=32", "--set", "predictor.hidden=32", "--set", "log_every_steps=1"),
]


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.yaml"
    path.write_text("tiny: {format: shapes, size: 32, train: 128, test: 64, seed: 0}\n")
    return path


def fastmoco(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(FASTMOCO), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False, timeout=300)


def test_help_imports_neither_torch_nor_pandas() -> None:
    script = (
        "import sys; sys.argv = ['fastmoco', '--help']\n"
        "from benchmarks.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas', 'submitit', 'numpy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


def test_planning_imports_no_torch(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: x\npretrain: {a: {recipe: shapes_demo, data: shapes}}\n"
        "evaluate: [{task: knn, data: shapes}, {task: linear, data: shapes}]\n"
    )
    script = (
        f"import sys; sys.argv = ['fastmoco', 'campaign', 'plan', {str(spec)!r}]\n"
        "from benchmarks.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert answer.stdout.splitlines()[-1] == "[]"
    assert "3 runs: 2 waiting, 1 new" in answer.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spec.yaml"]  # planning writes nothing


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pretrain", "--recipe", "nope", "--data", "tiny"], "unknown recipe 'nope'"),
        (["pretrain", "--recipe", "shapes_demo", "--data", "nope"], "unknown data set 'nope'"),
        (
            ["pretrain", "--recipe", "shapes_demo", "--data", "tiny", "--set", "epoch=3"],
            "unknown field of Recipe 'epoch'",
        ),
        (["pretrain", "--recipe", "shapes_demo", "--data", "tiny"], "train_images is 2000, but 'tiny' has 128"),
        (["evaluate", "nope", "--checkpoint", "random:resnet18", "--data", "tiny"], "unknown task 'nope'"),
        (["evaluate", "knn", "--checkpoint", "none.pth", "--data", "tiny"], "no checkpoint file at"),
        (["evaluate", "knn", "--checkpoint", "random:resnet1", "--data", "tiny"], "unknown backbone 'resnet1'"),
        (
            ["evaluate", "knn", "--checkpoint", "random:resnet18", "--data", "tiny", "--protocol", "x"],
            "unknown protocol",
        ),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, catalog: Path, words: list[str], told: str
) -> None:
    answer = fastmoco("--catalog", catalog, *words, "--out", tmp_path / "a" / "b")
    assert answer.returncode == 2, answer.stderr
    assert told in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "a").exists()


def test_pretrain_then_evaluate(tmp_path: Path, catalog: Path) -> None:
    out = tmp_path / "pre"
    recipe = ["--recipe", "shapes_demo", "--data", "tiny", *SMALL]
    answer = fastmoco("pretrain", *recipe, "--out", out, "--catalog", catalog)
    assert answer.returncode == 0, answer.stderr
    run = json.loads((out / "result.json").read_text())["run"]
    assert run["kind"] == "pretrain"
    assert run["wall_s"] > 0
    assert (out / "log.txt").read_text()
    again = fastmoco("--catalog", catalog, "pretrain", *recipe, "--out", out)
    assert again.returncode == 0
    assert "is done" in again.stderr
    other = fastmoco("pretrain", *recipe, "--seed", 1, "--out", out, "--catalog", catalog)
    assert other.returncode == 2
    assert "give another directory" in other.stderr
    measured = fastmoco(
        *("evaluate", "knn", "--checkpoint", out / "backbone.safetensors", "--data", "tiny"),
        *("--out", tmp_path / "knn", "--catalog", catalog),
    )
    assert measured.returncode == 0, measured.stderr
    assert measured.stdout.startswith("top1 ")
    result = json.loads((tmp_path / "knn" / "result.json").read_text())
    assert result["run"]["checkpoint"]["recipe"] == "shapes_demo"
    assert result["run"]["checkpoint"]["label"] == "pre"


def test_a_stopped_pretraining_says_so_and_goes_on(tmp_path: Path, catalog: Path) -> None:
    out = tmp_path / "pre"
    words = ["pretrain", "--recipe", "shapes_demo", "--data", "tiny", *SMALL, "--set", "epochs=40", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [str(FASTMOCO), "--catalog", str(catalog), *words], stderr=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 60
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not (out / "result.json").exists()
    assert fastmoco("--catalog", catalog, *words).returncode == 0
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 161))
    events = [json.loads(line)["event"] for line in (out / "attempts.jsonl").read_text().splitlines()]
    assert events == ["start", "interrupted", "start", "done"]


def test_every_command_says_how_it_is_used() -> None:
    import typer.main

    from benchmarks.cli import app

    group = typer.main.get_command(app)
    commands = dict(group.commands)  # type: ignore[attr-defined]
    for name in ("campaign", "data"):
        commands |= {f"{name} {each}": command for each, command in commands.pop(name).commands.items()}
    assert {"pretrain", "evaluate", "inspect", "convert", "table", "report", "recipes", "protocols", "doctor"} < set(
        commands
    )
    assert {f"campaign {verb}" for verb in ("plan", "run", "status", "cancel", "retry", "logs", "explain")} < set(
        commands
    )
    for name, command in commands.items():
        assert f"Example: fastmoco {name}" in (command.help or ""), name


def test_two_protocols_are_told_apart() -> None:
    answer = fastmoco("recipes", "r50_e100", "r50_e400")
    assert answer.stdout == "epochs  r50_e100: 100   r50_e400: 400\n"
    listed = fastmoco("protocols", "knn")
    assert "dino" in listed.stdout
