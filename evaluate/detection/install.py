"""Install detectron2 v0.6 from its source archive in the package index, with no compiler.

Usage: python -m evaluate.detection.install [--sdist FILE]

detectron2 has no wheel there, but the archive `pb1-detectron2==0.6` holds v0.6's Python files unchanged (and no C++
sources, so that its own build fails). RoIAlign and NMS come from torchvision in v0.6, so the Python files are enough
for everything but deformable convolutions and rotated boxes. This module fetches the archive with pip, checks its hash,
applies the few changes that today's numpy, Pillow and setuptools need (each must apply, and as often as said), and
installs the result as an ordinary distribution `detectron2 0.6+pure`, which `pip uninstall detectron2` removes.

A detectron2 that is already there is left alone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from evaluate.detection import PURE_VERSION, installed, usable
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import canonical_hash, sha256_of_file

SDIST = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
_RECIPE = "fastmoco-recipe.txt"  # in the dist-info: which changes were applied, to notice an older recipe


@dataclass(frozen=True)
class Change:
    """Replace `old` by `new` in `file`, where `old` stands exactly `times` times."""

    file: str
    old: str
    new: str
    times: int = 1


CHANGES = (
    # numpy 1.24 took away the aliases of Python's own types.
    Change("detectron2/data/build.py", "dtype=np.int)", "dtype=int)"),
    Change("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n"),
    Change("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", 2),
    Change("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", 2),
    Change("detectron2/evaluation/sem_seg_evaluation.py", "astype(np.float)", "astype(float)", 3),
    # Pillow 10 took away the old name of the same filter.
    Change("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR"),
    # setuptools 81 takes away pkg_resources, and its import warns before that.
    Change("detectron2/model_zoo/model_zoo.py", "import pkg_resources\n", ""),
    Change(
        "detectron2/model_zoo/model_zoo.py",
        'pkg_resources.resource_filename(\n        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
    ),
    Change("detectron2/__init__.py", '__version__ = "0.6"', f'__version__ = "{PURE_VERSION}"'),
)

# v0.6's setup.py installs these three from outside the package's folder.
PROJECTS = {
    "projects/PointRend/point_rend/": "detectron2/projects/point_rend/",
    "projects/DeepLab/deeplab/": "detectron2/projects/deeplab/",
    "projects/Panoptic-DeepLab/panoptic_deeplab/": "detectron2/projects/panoptic_deeplab/",
}

NO_EXTENSION = '''"""Stands where detectron2's compiled extension would be; written by fastmoco's installer."""


def __getattr__(name):
    raise AttributeError(f"detectron2 {version} has no compiled extension, which '{{name}}' needs")
'''.replace("{version}", PURE_VERSION).replace("{{name}}", "{name}")


def main(
    sdist: Annotated[
        Path | None, typer.Option(help=f"The archive of {SDIST}, for a machine that reaches no package index.")
    ] = None,
) -> None:
    """Install detectron2 0.6+pure, unless a detectron2 is there already."""
    try:
        print(install(sdist))
    except (InputError, RunFailedError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None


def install(sdist: Path | None = None) -> str:
    """Install detectron2 0.6+pure into the environment of this Python; a sentence that says what was done.

    Raises:
        InputError: `sdist` is not the archive that is expected, or a broken detectron2 stands in the way.
        RunFailedError: the index could not be reached, or what was installed does not import.
    """
    here = installed()
    if usable():
        if here != PURE_VERSION:
            return f"detectron2 {here} is there already and stays as it is"
        if (metadata.distribution("detectron2").read_text(_RECIPE) or "").strip() == _recipe_id():
            return f"detectron2 {here} is there already"
    elif "is not installed" not in here:
        raise InputError(here)
    with tempfile.TemporaryDirectory() as scratch:
        archive = sdist or download(Path(scratch))
        wheel = build_wheel(read_sources(archive), Path(scratch))
        _pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel), failing="detectron2 not installed")
    _prove()
    return f"detectron2 {PURE_VERSION} installed from {SDIST}"


def download(folder: Path) -> Path:
    """Fetch the source archive into `folder` with pip, which refuses it when its hash is another."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{SDIST} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    # pip asks the archive for its metadata once the hash is right; without build isolation that needs no second torch.
    _pip(
        *("download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes"),
        *("--dest", str(folder), "--requirement", str(requirements)),
        failing=f"{SDIST} could not be fetched from the package index (on a machine that reaches none, give the "
        "archive with --sdist)",
    )
    return next(folder.glob("pb1*detectron2-0.6.tar.gz"))


def read_sources(archive: Path) -> dict[str, bytes]:
    """The package's files, by their path in site-packages, with every change applied.

    Raises:
        InputError: no such file, or not the one archive whose content is known.
    """
    if not archive.is_file():
        raise InputError(f"no file at {archive}")
    digest = sha256_of_file(archive)
    if digest != SDIST_SHA256:
        raise InputError(f"{archive} has sha256 {digest}, but {SDIST} has {SDIST_SHA256}")
    files: dict[str, bytes] = {}
    with tarfile.open(archive) as members:
        for member in members:
            inside = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            for folder, package in PROJECTS.items():
                if inside.startswith(folder):
                    inside = package + inside.removeprefix(folder)
            stream = members.extractfile(member) if member.isfile() else None
            if stream is not None and (inside.startswith("detectron2/") or inside == "LICENSE"):
                files[inside] = stream.read()
    for change in CHANGES:
        text = files[change.file].decode()
        found = text.count(change.old)
        assert found == change.times, f"{change.file}: {change.old!r} stands {found} times, expected {change.times}"
        files[change.file] = text.replace(change.old, change.new).encode()
    files["detectron2/_C.py"] = NO_EXTENSION.encode()
    return files


def build_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Write `files` as the wheel of distribution `detectron2 0.6+pure` into `folder`."""
    info = f"detectron2-{PURE_VERSION}.dist-info"
    contents = {name: content for name, content in files.items() if name != "LICENSE"}
    contents[f"{info}/licenses/LICENSE"] = files["LICENSE"]
    contents[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.4\nName: detectron2\nVersion: {PURE_VERSION}\n"
        f"Summary: detectron2 v0.6 without its compiled extension, made from {SDIST} by fastmoco\n"
        "License-Expression: Apache-2.0\nLicense-File: LICENSE\n"
    ).encode()
    contents[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: fastmoco\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents[f"{info}/{_RECIPE}"] = f"{_recipe_id()}\n".encode()
    record = io.StringIO()
    for name, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.write(f"{name},sha256={digest},{len(content)}\n")
    record.write(f"{info}/RECORD,,\n")
    contents[f"{info}/RECORD"] = record.getvalue().encode()
    wheel = folder / f"detectron2-{PURE_VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return wheel


def _recipe_id() -> str:
    values = [[change.file, change.old, change.new, change.times] for change in CHANGES]
    return canonical_hash([SDIST_SHA256, values, sorted(PROJECTS.items()), NO_EXTENSION])


def _pip(*arguments: str, failing: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunFailedError(f"{failing}: {_last_line(done.stderr)}")


def _prove() -> None:
    """Import what the adapter needs in a process of its own: this one may have looked before it was there."""
    code = "from detectron2 import _C; import detectron2.modeling, detectron2.data, detectron2.evaluation"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise RunFailedError(f"detectron2 {PURE_VERSION} is installed but does not import: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or ["no message"])[-1].strip()


if __name__ == "__main__":
    typer.run(main)
