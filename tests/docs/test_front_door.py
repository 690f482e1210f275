"""What a newcomer meets first: the bare command, the package as installed, environment variables, containers, CI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

FASTMOCO = Path(sys.executable).with_name("fastmoco")
ROOMS = ("pretrain", "evaluate", "benchmarks", "results")


def fastmoco(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FASTMOCO, *words], capture_output=True, text=True, check=False, timeout=60)


def test_the_bare_command_says_how_to_start() -> None:
    told = fastmoco()
    assert told.returncode == 0
    assert told.stdout.startswith("fastmoco 0.")
    from typer.main import get_command

    from benchmarks.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    named = re.findall(r"fastmoco (?!--)([a-z]+)", told.stdout)
    assert len(named) >= 6
    assert set(named) <= set(known)


@pytest.mark.parametrize("words", [("--version",), ("-h",), ("evaluate", "-h"), ("campaign", "plan", "-h")])
def test_version_and_short_help(words: tuple[str, ...]) -> None:
    told = fastmoco(*words)
    assert told.returncode == 0, told.stderr
    assert re.match(r"\d+\.\d+\.\d+$|Usage: fastmoco", told.stdout)


def test_every_variable_that_is_read_is_documented_and_no_other(repository: Path) -> None:
    code = [path for room in ROOMS for path in (repository / room).rglob("*.py")]
    read = {name for path in code for name in re.findall(r'"(FASTMOCO_[A-Z_]+)"', path.read_text(encoding="utf-8"))}
    page = (repository / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = "".join(re.findall(r"^\| `FASTMOCO_[^|]*\|", page, re.MULTILINE))
    assert set(re.findall(r"FASTMOCO_[A-Z_]+", rows)) == read | {"FASTMOCO_TEST_DATA"}


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist) of the tracked files, built without network."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=False).stdout
    if not tracked:
        pytest.skip("needs a git checkout, whose tracked files are what a release holds")
    for name in tracked.decode().split("\0")[:-1]:
        if (repository / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((repository / name).read_bytes())
    script = (
        "from setuptools import build_meta\n"
        f"print(build_meta.build_wheel({str(folder)!r}))\nprint(build_meta.build_sdist({str(folder)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=source, capture_output=True, text=True, check=True
    )
    wheel, sdist = (line for line in done.stdout.splitlines() if line.endswith((".whl", ".tar.gz")))
    return folder / wheel, folder / sdist


@pytest.mark.long
def test_the_wheel_works_outside_the_clone(built: tuple[Path, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(site)
    assert not (site / "tests").exists()
    environment = {**os.environ, "PYTHONPATH": str(site), "FASTMOCO_CACHE": str(tmp_path / "cache")}
    script = "import benchmarks, sys; print(benchmarks.__file__); from benchmarks.cli import main; main()"
    words = ["evaluate", "knn", "--checkpoint", "random:cifar_resnet20", "--data", "shapes", "--out", "run"]
    words += ["--set", "train_limit=60", "--set", "test_limit=20", "--set", "k=5", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert (tmp_path / "run" / "result.json").is_file()
    # Everything that is no Python but is read: recipes and protocols need none, these do.
    for name in ("pretrain/data/imagenet_1percent.txt.xz", "results/published.csv", "results/definitions/summary.yaml"):
        assert (site / name).is_file(), name
    for folder in ("benchmarks/campaigns", "benchmarks/schemas", "results/measured", "results/templates"):
        assert any((site / folder).iterdir()), folder


def test_the_source_archive_holds_docs_and_tests(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"docs/index.md", "docs/generate.py", "tests/conftest.py", "tests/slurm/sandbox.py", "SECURITY.md"}
    assert wanted <= names
    assert {"Makefile", "constraints.txt", "container/Dockerfile", "results/published.csv"} <= names


def test_ci_of_the_forge_calls_the_script_that_everybody_runs(repository: Path) -> None:
    workflow = yaml.safe_load((repository / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["ci"]["steps"]
    assert any(step.get("run") == "bash .ci/run" for step in steps)


def test_containers_copy_what_the_installation_needs(repository: Path) -> None:
    needed = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", *ROOMS}
    docker = (repository / "container" / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.*)", docker, re.MULTILINE) for word in line.split()[:-1]}
    apptainer = (repository / "container" / "fastmoco.def").read_text(encoding="utf-8")
    files = set(re.findall(r"^    (\S+) /opt/fastmoco/", apptainer, re.MULTILINE))
    assert copied == files == needed
    assert all((repository / name).exists() for name in needed)


def test_pre_commit_runs_tools_that_the_environment_has(repository: Path) -> None:
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    for hook in hooks:
        assert Path(sys.executable).with_name(Path(hook["entry"].split()[0]).name).exists(), hook["id"]
