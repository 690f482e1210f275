"""What differs between two protocols, as the command tells it."""

from __future__ import annotations

import sys

import pytest

from benchmarks.cli import main


def test_what_differs_between_two_linear_protocols(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastmoco", "protocols", "linear", "moco_v3", "fast_moco"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}
    assert told == {
        "interpolation": "moco_v3: bilinear fast_moco: bicubic",
        "schedule": "moco_v3: cosine_epoch fast_moco: cosine_step",
        "optimizer": "moco_v3: sgd fast_moco: lars",
        "lars_form": "moco_v3: before_momentum fast_moco: after_momentum",
        "lr_rule": "moco_v3: linear fast_moco: fixed",
        "global_batch_size": "moco_v3: 1024 fast_moco: 4096",
        "base_lrs": "moco_v3: [0.1] fast_moco: [0.8]",
    }
