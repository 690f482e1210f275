"""No command removes what it has not written: a late input error, a finished run, a conversion, a table.

A damaged test image, found after training began, once made a command delete the topmost folder it had created, with the
results that other commands had put there meanwhile.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.run.execute as executing
from benchmarks.cli import main
from benchmarks.run.leftovers import nothing_left_behind
from evaluate.trained_before import take_over
from pretrain import train as training
from pretrain.runtime.errors import InputError
from pretrain.state import StateStore

SHORT = ["--set", "epochs=2", "--set", "global_batch_size=6", "--set", "native_up_to_px=64"]
SMALL = [
    *("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "global_batch_size=4", "--set", "views.size=16"),
    *("--set", "train_images=null", "--set", "projector.hidden=32", "--set", "predictor.hidden=32"),
]


def png(label: int, row: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng([label, row]).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    for split, n in (("train", 6), ("test", 3)):
        for label in range(2):
            folder = tmp_path / "images" / split / f"c{label}"
            folder.mkdir(parents=True)
            for row in range(n):
                (folder / f"{row}.png").write_bytes(png(label, row))
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text("mine: {format: imagefolder, train: images/train, test: images/test, classes: 2}\n")
    return tmp_path


def damage(path: Path) -> bytes:
    """Make a file undecodable at its size and time, by which a set is known to be the same; its content before."""
    whole, at = path.read_bytes(), path.stat()
    path.write_bytes(whole[:60].ljust(len(whole), b"\0"))
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    return whole


def mend(path: Path, whole: bytes) -> None:
    at = path.stat()
    path.write_bytes(whole)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))


@pytest.fixture
def command(
    sets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words), "--catalog", str(sets / "catalog.yaml")])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return int(code or 0), capsys.readouterr().err

    return run


def evaluation(task: str, out: Path, *more: str) -> list[object]:
    checkpoint = ["--checkpoint", "random:cifar_resnet20"]
    return ["evaluate", task, *checkpoint, "--data", "mine", "--out", out, "--device", "cpu", *more]


def during(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Have `what` happen once, while the next command is at work."""
    work = executing._work

    def first_the_other(*arguments, **options):
        monkeypatch.setattr(executing, "_work", work)
        what()
        return work(*arguments, **options)

    monkeypatch.setattr(executing, "_work", first_the_other)


@pytest.mark.parametrize("task", ["knn", "linear", "finetune"])
def test_a_command_that_fails_late_leaves_what_another_has_put_under_the_same_new_root(
    task, sets, command, monkeypatch
):
    root = sets / "new" / "root"
    other = evaluation("knn", root / "other", "--set", "k=2", "--set", "also_k=[]", "--data", "mine")
    broken = sets / "images/test/c1/1.png"

    def other_command_then_damage() -> None:
        assert command(*other)[0] == 0
        (root / "notes.txt").write_text("mine")
        damage(broken)

    during(monkeypatch, other_command_then_damage)
    settings = SHORT if task != "knn" else ["--set", "k=3", "--set", "also_k=[]", "--set", "image_size=8"]
    name = [] if task == "knn" else ["--protocol", "barlow_twins"]
    monkeypatch.setenv("FASTMOCO_CACHE", str(sets / "cache"))
    code, told = command(*evaluation(task, root / "fails", *name, *settings, "--seed", "1"))
    assert code == 2, told
    assert "1.png" in told
    assert json.loads((root / "other/result.json").read_text())["metrics"]
    assert (root / "notes.txt").read_text() == "mine"
    if task == "finetune":  # an epoch is trained: it stays
        assert list((root / "fails/state").glob("step_*.pt"))
    else:
        assert not (root / "fails").exists()


def test_an_image_found_damaged_late_costs_no_training(sets, command, caplog):
    run = evaluation("finetune", sets / "run", "--protocol", "barlow_twins", *SHORT)
    straight = evaluation("finetune", sets / "straight", "--protocol", "barlow_twins", *SHORT)
    broken = sets / "images/test/c0/2.png"
    whole = damage(broken)
    code, told = command(*run)
    assert (code, "2.png" in told) == (2, True)
    assert [path.name for path in (sets / "run/state").iterdir()] == ["step_00000002.pt"]
    mend(broken, whole)
    with caplog.at_level(logging.INFO, logger="fastmoco"):
        assert command(*run)[0] == 0
    assert "resuming at step 2 of 4" in caplog.text
    assert command(*straight)[0] == 0
    results = [json.loads((sets / name / "result.json").read_text())["metrics"] for name in ("run", "straight")]
    assert results[0] == results[1]


def loading_after(what: Callable[[], object]) -> Callable[..., object]:
    load = training.two_view_loader

    def loader(*arguments, **options):
        what()
        return load(*arguments, **options)

    return loader


def test_a_pretraining_keeps_its_state_when_a_training_image_is_damaged(sets, command, caplog, monkeypatch):
    words = ["pretrain", "--recipe", "shapes_demo", "--data", "mine", "--seed", "0", "--device", "cpu", *SMALL]
    words += ["--set", "backbone=cifar_resnet20", "--set", "grid=1", "--set", "combine=1"]
    images = sorted((sets / "images/train").rglob("*.png"))
    assert command(*words, "--out", sets / "straight")[0] == 0
    # The image that the last batch needs.
    damaged = None
    for path in images:
        whole = path.read_bytes()
        with monkeypatch.context() as patch:  # the disk fails after the training has begun
            patch.setattr(training, "two_view_loader", loading_after(lambda path=path: damage(path)))
            code, _ = command(*words, "--out", sets / "a" / "b")
        mend(path, whole)
        assert code == 2
        if (sets / "a/b").exists():
            damaged = path
            break
        assert not (sets / "a").exists()  # the first batch needed it: nothing is left
    assert damaged is not None
    assert (sets / "a/b/run.json").exists()
    with caplog.at_level(logging.INFO, logger="fastmoco"):
        code, told = command(*words, "--out", sets / "a" / "b")
        assert code == 0, told
    assert "resuming at step" in caplog.text
    weights = [(sets / name / "backbone.safetensors").read_bytes() for name in ("straight", "a/b")]
    assert weights[0] == weights[1]


def test_a_finished_run_leaves_the_states_of_runs_below_its_directory(sets, command):
    out = sets / "runs"
    unfinished = StateStore(out / "pretraining" / "state")
    unfinished.save(7, {"w": 1}, wait=True)
    assert command(*evaluation("finetune", out, "--protocol", "barlow_twins", *SHORT))[0] == 0
    assert unfinished.latest() == (7, {"w": 1})
    assert not list((out / "state").iterdir())


def test_states_that_are_not_ours_are_not_pruned(tmp_path):
    theirs = tmp_path / "step_00000001.pt"
    theirs.write_bytes(b"another program's")
    store = StateStore(tmp_path)
    for step in (2, 3, 4):
        store.save(step, {"w": step}, wait=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_0000000{n}.pt" for n in (1, 3, 4)]
    store.remove()
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]


def test_files_of_no_run_are_not_replaced(sets, command):
    out = sets / "mine"
    out.mkdir()
    (out / "backbone.safetensors").write_bytes(b"weeks of work")
    code, told = command("pretrain", "--recipe", "shapes_demo", "--data", "mine", "--out", out, *SMALL)
    assert (code, "holds backbone.safetensors, but no run.json" in told) == (2, True)
    assert [path.name for path in out.iterdir()] == ["backbone.safetensors"]
    assert (out / "backbone.safetensors").read_bytes() == b"weeks of work"


def test_only_what_the_call_wrote_is_taken_from_a_folder_that_was_there(tmp_path):
    (tmp_path / "log.txt").write_text("of yesterday")

    def fails() -> None:
        with nothing_left_behind(tmp_path):
            (tmp_path / "run.json").write_text("{}")
            (tmp_path / "somebody.txt").write_text("else")
            raise InputError("wrong")

    with pytest.raises(InputError, match="wrong"):
        fails()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "somebody.txt"]


def test_the_note_of_a_training_that_did_not_begin_is_taken_away(tmp_path):
    """One that has a state keeps it, and the note by which other runs of the same training find it."""
    out = tmp_path / "new" / "out"

    def fails(*, begun: bool) -> None:
        with nothing_left_behind(out):
            out.mkdir(parents=True)
            (out / "run.json").write_text("{}")
            take_over(out, "a" * 64)
            if begun:
                (out / "state" / "step_00000002.pt").write_bytes(b"a state")
            raise InputError("a damaged image")

    for begun in (False, True):
        with pytest.raises(InputError):
            fails(begun=begun)
        assert (tmp_path / "new").exists() == begun
    assert json.loads((out / "state" / "training.json").read_text()) == {"training": "a" * 64}


def test_a_conversion_never_replaces_its_source(tmp_path, monkeypatch, capsys):
    import torch
    from torchvision.models import resnet18

    source = tmp_path / "r18.pth"
    torch.save(resnet18().state_dict(), source)
    before = source.read_bytes()
    link = tmp_path / "link.pth"
    link.symlink_to(source)
    for to, out in (("mmseg", source), ("timm", link), ("huggingface", tmp_path), ("mmseg", tmp_path)):
        monkeypatch.setattr(sys, "argv", ["fastmoco", "convert", str(source), "--to", to, "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert str(out) in capsys.readouterr().err.replace("\n", "")
        assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.pth", "r18.pth"]


@pytest.mark.parametrize("words", [["table", "summary", "--root"], ["report"]])
def test_a_table_and_a_report_never_replace_the_rows_they_read(words, sets, command, monkeypatch, capsys):
    assert command(*evaluation("knn", sets / "run", "--set", "k=2", "--set", "also_k=[]"))[0] == 0
    result = sets / "run/result.json"
    before = result.read_bytes()
    for out in (result, sets / "run"):
        monkeypatch.setattr(sys, "argv", ["fastmoco", *words, str(sets / "run"), "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert result.read_bytes() == before
