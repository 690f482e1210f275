"""A disk that takes no more, an output that is no file: one sentence each, and what was there before is intact."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FASTMOCO = Path(sys.executable).with_name("fastmoco")


def fastmoco(*words: object, cwd: Path, preexec: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(FASTMOCO), *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, preexec_fn=preexec, check=False, timeout=120
    )


def _full() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.parametrize(
    "words", [("table", "summary", "--format", "html", "--out", "t.html"), ("report", "--out", "r.html")]
)
def test_a_full_disk_ends_in_a_sentence_and_keeps_what_is_there(campaign: Path, words: tuple[str, ...]) -> None:
    verb, *rest = words
    where = ["--root", campaign] if verb == "table" else [campaign]
    before = (campaign.parent / words[-1]).write_text("of yesterday")
    told = fastmoco(verb, *where, *rest, cwd=campaign.parent, preexec=_full)
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1] == f"fastmoco: {words[-1]}: File too large; what was written before is intact"
    assert (campaign.parent / words[-1]).stat().st_size == before
    assert sorted(path.name for path in campaign.parent.iterdir()) == ["campaign", words[-1]]


def test_a_device_or_a_directory_is_not_replaced_by_a_file(campaign: Path) -> None:
    for out, reason in (
        ("pipe", "is no regular file and is not replaced"),
        ("folder", "is a folder; expected the name"),
    ):
        if out == "pipe":
            os.mkfifo(campaign.parent / out)
        else:
            (campaign.parent / out).mkdir()
        told = fastmoco("table", "summary", "--root", campaign, "--format", "csv", "--out", out, cwd=campaign.parent)
        assert told.returncode == 2, told.stderr
        assert reason in told.stderr
