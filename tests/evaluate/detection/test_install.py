"""The installer: what it makes of the archive, what it refuses, and what it leaves alone."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import evaluate.detection as room
from benchmarks.run.provenance import package_versions
from evaluate.detection import install
from pretrain.runtime.errors import InputError, RunFailedError


def archive(folder: Path, *, without: str = "") -> Path:
    """An archive with the files that are changed and no more; each holds what its changes look for."""
    files: dict[str, str] = {
        "LICENSE": "the licence",
        "setup.py": "raise SystemExit",
        "projects/DeepLab/deeplab/a.py": "A",
    }
    for change in install.CHANGES:
        files[change.file] = files.get(change.file, "") + (change.old + "\n") * change.times
    if without:
        files["detectron2/data/build.py"] = files["detectron2/data/build.py"].replace(without, "")
    path = folder / "pb1-detectron2-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as members:
        for name, text in files.items():
            member = tarfile.TarInfo(f"pb1-detectron2-0.6/{name}")
            member.size = len(text.encode())
            members.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = archive(tmp_path)
    monkeypatch.setattr(install, "SDIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_every_change_is_applied(known: Path) -> None:
    files = install.read_sources(known)
    assert files["detectron2/data/build.py"].decode().split() == ["dtype=int)", "dtype=int"]
    assert files["detectron2/data/transforms/transform.py"].decode().split() == ["Image.BILINEAR"]
    assert b"np." not in files["detectron2/evaluation/sem_seg_evaluation.py"]
    assert b"pkg_resources" not in files["detectron2/model_zoo/model_zoo.py"]
    assert files["detectron2/projects/deeplab/a.py"] == b"A"
    assert "setup.py" not in files


def test_a_change_that_does_not_apply_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = archive(tmp_path, without="dtype=np.int)")
    monkeypatch.setattr(install, "SDIST_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(AssertionError, match="stands 0 times, expected 1"):
        install.read_sources(path)


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has sha256 \w{64}, but pb1-detectron2==0.6 has 5d2e9e51"):
        install.read_sources(archive(tmp_path))
    with pytest.raises(InputError, match="no file at"):
        install.read_sources(tmp_path / "nothing")


@pytest.mark.long
def test_the_wheel_is_an_ordinary_distribution(known: Path, tmp_path: Path) -> None:
    wheel = install.build_wheel(install.read_sources(known), tmp_path)
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    (found,) = importlib.metadata.distributions(path=[str(target)])
    assert (found.name, found.version) == ("detectron2", "0.6+pure")
    assert found.files is not None
    recorded = {str(path) for path in found.files}
    on_disk = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert on_disk <= recorded
    with zipfile.ZipFile(wheel) as content:
        assert content.testzip() is None
        assert content.read("detectron2-0.6+pure.dist-info/licenses/LICENSE") == b"the licence"


def test_an_index_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(RunFailedError, match="could not be fetched from the package index") as error:
        install.download(tmp_path)
    assert "\n" not in str(error.value)


def test_a_detectron2_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "installed", lambda: "0.6 compiled")
    monkeypatch.setattr(install, "usable", lambda: True)
    assert install.install() == "detectron2 0.6 compiled is there already and stays as it is"
    monkeypatch.setattr(install, "installed", lambda: "detectron2 0.6 in /x has no compiled extension; uninstall it")
    monkeypatch.setattr(install, "usable", lambda: False)
    with pytest.raises(InputError, match="has no compiled extension"):
        install.install()


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, *, extension: bool, version: str | None) -> None:
    package = folder / "detectron2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('nobody asked to import this')")
    if extension:
        (package / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    if version:
        info = folder / f"detectron2-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: detectron2\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "detectron2", raising=False)
    importlib.invalidate_caches()


def test_what_is_there_is_told_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fake_package(tmp_path / "real", patch, extension=True, version="0.7")
        assert room.installed() == "0.7 compiled"
        assert room.usable()
    with monkeypatch.context() as patch:
        fake_package(tmp_path / "half", patch, extension=False, version="0.7")
        assert room.installed().startswith("detectron2 0.7 in")
        assert "has no compiled extension" in room.installed()
        assert not room.usable()
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        assert room.installed() == f"detectron2 is not installed; install it with: {room.REMEDY}"


def test_this_environments_detectron2_uses_torchvision() -> None:
    if room.installed() != room.PURE_VERSION:
        pytest.skip(f"detectron2 here is {room.installed()}, not what the installer makes")
    from evaluate.detection import library

    library.load()
    import detectron2
    import torchvision
    from detectron2 import _C

    layers = [importlib.import_module(f"detectron2.layers.{name}") for name in ("roi_align", "nms")]
    assert detectron2.__version__ == "0.6+pure"
    assert layers[0].roi_align is torchvision.ops.roi_align
    assert layers[1].nms is torchvision.ops.nms
    with pytest.raises(AttributeError, match="has no compiled extension, which 'deform_conv_forward' needs"):
        _C.deform_conv_forward  # noqa: B018


def test_what_is_told_is_what_an_import_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone before what is installed ran, and rows named what was installed."""
    clone = tmp_path / "clone"
    (clone / "detectron2").mkdir(parents=True)
    (clone / "detectron2" / "__init__.py").write_text('__version__ = "0.6"\n')
    (clone / "detectron2" / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    git = ["git", "-C", str(clone), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout[:10]
    spec = importlib.util.spec_from_file_location(
        "detectron2", clone / "detectron2/__init__.py", submodule_search_locations=[str(clone / "detectron2")]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert room.found() == room.Found(f"0.6+g{commit}", clone / "detectron2", True)
    assert room.installed() == f"0.6+g{commit} compiled"
    assert package_versions()["detectron2"] == f"0.6+g{commit}"
    (clone / "detectron2" / "__init__.py").write_text('__version__ = "0.7"\n')
    assert room.found().version == f"0.7+g{commit}-dirty"
