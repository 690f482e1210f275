"""Run the code blocks of the pages and hold the outputs they show to the real ones.

Above a fenced block stands a comment that MkDocs does not show:

    <!-- file NAME -->       the block is the content of NAME in the page's folder
    <!-- run -->             run the block (bash or python); `exit=2` says how it must end; `long` and `slurm` say when
    <!-- output -->          what the run above prints; a line `...` stands for any lines, and `example` for all

Blocks of one page run in order in one empty folder that links to `benchmarks/`, `docs/` and `results/`. Times, decimal
numbers and hashes of an output may differ from run to run, lines of progress and lists of what is
available do not count; all else must be as shown.
`python docs/run_blocks.py [--write] PAGE...` runs pages; with --write the outputs shown are replaced by the real ones.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"<!-- (file|run|output)\b([^>]*?)-->\n```\{?\.?(\w+)[^\n]*\n(.*?)```\n", re.DOTALL)
_ANY = "..."
# How often a long piece of work says where it stands depends on the machine.
_PROGRESS = re.compile(r"^\d\d:\d\d:\d\d .*: \d+/\d+ .*, \S+ left(, .*)?$")


@dataclass(frozen=True)
class Block:
    """One marked block: `kind` is file, run or output; `start` and `end` are where its code stands in the page."""

    kind: str
    words: tuple[str, ...]
    language: str
    code: str
    start: int
    end: int


def blocks(text: str) -> list[Block]:
    """The marked blocks of a page, in order."""
    return [
        Block(m[1], tuple(m[2].split()), m[3], m[4], m.start(4), m.end(4)) for m in _BLOCK.finditer(text)
    ]  # fmt: skip


def needs(text: str, word: str) -> bool:
    """Whether a run of the page carries the word: `long` or `slurm`."""
    return any(block.kind == "run" and word in block.words for block in blocks(text))


def run_page(text: str, folder: Path, environment: dict[str, str] | None = None) -> tuple[str, list[str]]:
    """Run a page's blocks in `folder`.

    Returns:
        The page with its outputs made fresh, and what was wrong: exit codes and outputs that are not those shown.
    """
    for name in ("benchmarks", "docs", "results"):
        (folder / name).symlink_to(REPOSITORY / name)
    wrong: list[str] = []
    fresh: list[tuple[Block, str]] = []
    printed = ""
    for block in blocks(text):
        line = text[: block.start].count("\n") + 1
        if block.kind == "file":
            path = folder / block.words[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        elif block.kind == "run":
            code, printed = _run(block, folder, environment or {})
            wanted = next((int(word[5:]) for word in block.words if word.startswith("exit=")), 0)
            if code != wanted:
                wrong.append(f"line {line}: exit code {code}, expected {wanted}\n{printed[-3000:]}")
        else:
            shown = printed if "example" in block.words else merged(block.code, printed)
            if shown is None:
                wrong.append(f"line {line}: the output is\n{printed}\nand the page shows\n{block.code}")
                shown = printed
            fresh.append((block, shown))
    for block, shown in reversed(fresh):
        text = text[: block.start] + shown + text[block.end :]
    return text, wrong


def merged(shown: str, printed: str) -> str | None:
    """`shown` with its lines replaced by the printed ones they stand for; None when the two do not agree."""
    wanted, real, result, at = shown.splitlines(), printed.splitlines(), [], 0
    for index, line in enumerate(wanted):
        if line.strip() == _ANY:
            result.append(line)
            following = wanted[index + 1] if index + 1 < len(wanted) else None
            while at < len(real) and (following is None or _form(real[at]) != _form(following)):
                at += 1
            continue
        if at >= len(real) or _form(real[at]) != _form(line):
            return None
        result.append(real[at])
        at += 1
    return "\n".join(result) + "\n" if at == len(real) else None


def _form(line: str) -> str:
    """What must be the same in every run: not times, decimals, hashes, nor the bold type and padding they cause."""
    line = re.sub(r"\b\d+\.\d+\.\d+(\+[\w-]+)?", "VERSION", line)
    line = re.sub(r"\b\d+:\d\d(:\d\d)?\b", "TIME", line)
    line = re.sub(r"(available: ).*", r"\1NAMES", line)
    line = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", "HASH", line)
    line = re.sub(r"\b\d+\.\d+(e[+-]?\d+)?\b|\b\d+e[+-]?\d+\b", "NUMBER", line)
    line = re.sub(r"\b(NUMBER|\d+) ?(s\b|min\b|h\b|MiB\b|MB\b|GB\b|%)", "AMOUNT", line)
    return re.sub(r"[\s─━]+", " ", line.replace("**", "")).strip()


def _run(block: Block, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    commands = {"bash": ["bash", "-euo", "pipefail", "-c", block.code], "python": [sys.executable, "-c", block.code]}
    done = subprocess.run(
        commands[block.language],
        cwd=folder,
        env={**_environment(folder), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=580,
        check=False,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    printed = "\n".join(line for line in lines if not _PROGRESS.match(line)).rstrip("\n")
    return done.returncode, (printed + "\n" if printed else "").replace(f"{folder}/", "").replace(str(folder), ".")


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTMOCO_", "SLURM_"))}
    cache = os.environ.get("FASTMOCO_CACHE", str(folder / ".cache"))
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FASTMOCO_CACHE": cache,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


@contextmanager
def _cluster(text: str) -> Iterator[dict[str, str]]:
    """What a page that needs SLURM gets: the environment of the throw-away cluster of the tests."""
    if not needs(text, "slurm"):
        yield {}
        return
    where = REPOSITORY / "tests" / "slurm" / "sandbox.py"
    spec = importlib.util.spec_from_file_location("fastmoco_slurm_sandbox", where)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with tempfile.TemporaryDirectory() as folder:
        sandbox = module.Sandbox(Path(folder))
        try:
            yield for_blocks(sandbox.start().environment)
        finally:
            sandbox.stop()


def for_blocks(environment: dict[str, str]) -> dict[str, str]:
    """What the blocks need of a sandbox's environment."""
    return {"SLURM_CONF": environment["SLURM_CONF"], "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}


def _main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--write", action="store_true", help="replace the outputs shown by the real ones")
    arguments = parser.parse_args()
    failed = False
    for page in arguments.pages:
        text = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder, _cluster(text) as environment:
            fresh, wrong = run_page(text, Path(folder).resolve(), environment)
        if arguments.write:
            page.write_text(fresh, encoding="utf-8")
        for sentence in wrong:
            print(f"{page}: {sentence}", file=sys.stderr)
        failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(_main())
