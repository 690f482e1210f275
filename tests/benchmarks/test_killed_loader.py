"""A loader process that the system kills ends the command in a sentence."""

from __future__ import annotations

import pytest

import benchmarks.cli as cli


@pytest.mark.parametrize(
    "words",
    [
        "DataLoader worker (pid 41) is killed by signal: Killed. \nmore",
        "DataLoader worker (pid(s) 41) exited unexpectedly",
    ],
)
def test_a_killed_loader_process_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    def killed() -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(cli, "app", killed)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    assert "a process that reads images was killed (DataLoader worker" in told
    assert "/dev/shm" in told
