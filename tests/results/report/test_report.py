"""The report as text: everything is in it, nothing is fetched, nothing in the data becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.report.page import write_report
from results.row import Metric

HOSTILE = "</script><script>alert(1)</script><!-- & \u2028 \"'"


def page_of(root: Path, tmp_path: Path) -> str:
    write_report([root], tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def details(page: str) -> dict[str, dict[str, str]]:
    """Run id -> label -> text, as the page's script puts them together."""
    found = re.search(r'<script type="application/json" id="details">(.*?)</script>', page, re.DOTALL)
    assert found
    value = json.loads(found[1])
    return {
        run_id: {
            label: value["texts"][place] for label, place in zip(value["labels"], places, strict=True) if place >= 0
        }
        for run_id, places, _ in value["runs"]
    }


def test_every_run_comes_with_its_provenance(full_campaign: Path, tmp_path: Path) -> None:
    told = details(page_of(full_campaign, tmp_path))
    assert len(told) == 37
    run = told["linear-moco-cifar10-sweep-p1-s1"]
    assert run["weights SHA-256"] == b"moco-1".hex().ljust(64, "0")
    assert run["command"] == "fastmoco evaluate linear --checkpoint backbone.safetensors --seed 1"
    assert json.loads(run["protocol"]) == {"k": [10, 20], "temperature": 0.07}
    assert json.loads(run["packages"]) == {"torch": "2.14.1", "numpy": "2.4.6"}
    assert (run["code"], run["pretraining seed"], run["device"]) == ("0.1.0+abc", "1", "cpu")
    assert told["pretrain-moco-s0"]["processes"] == "2"


def test_same_runs_same_bytes_and_nothing_from_outside(full_campaign: Path, tmp_path: Path) -> None:
    page = page_of(full_campaign, tmp_path)
    assert page == page_of(full_campaign, tmp_path)
    addresses = re.findall(r'(?:src|href|url|action)\s*[=(]\s*["\']?([^"\')>\s]+)', page)
    assert addresses
    assert [one for one in addresses if not one.startswith(("#", "data:", "&#34;#"))] == []
    assert "default-src 'none'" in page


def test_nothing_in_the_data_becomes_markup(tmp_path: Path, make_run, write_done, write_failed_run) -> None:
    root = tmp_path / "root"
    write_done(root, make_run(HOSTILE, run_id="one", command=["fastmoco", HOSTILE]), [Metric(name="top1", value=1)])
    write_failed_run(root, make_run("two", run_id="two"), HOSTILE, HOSTILE)
    page = page_of(root, tmp_path)
    assert "alert(1)</script>" not in page.replace("&lt;/script&gt;", "")
    assert page.count("<script") == 2
    assert HOSTILE in details(page)["one"]["command"].replace("'\"'\"'", "'")
    assert details(page)["one"]["command"].startswith("fastmoco '</script>")


def test_the_end_of_a_long_log_is_shown(tmp_path: Path, make_run, write_failed_run) -> None:
    log = "".join(f"line {index}\n" for index in range(10_000))
    write_failed_run(tmp_path / "root", make_run(), "out of memory", log)
    page = page_of(tmp_path / "root", tmp_path)
    assert "line 9999" in page
    assert "line 9970\n" in page
    assert "line 9969\n" not in page
    assert "out of memory" in page


def test_sheets_beyond_the_limit_are_counted(tmp_path: Path, make_run, write_done) -> None:
    for index in range(3):
        run = make_run(f"c{index}", task="segmentation", protocol="smoke")
        folder = write_done(tmp_path / "root", run, [Metric(name="mIoU", value=30)]) / "pictures"
        folder.mkdir()
        for sheet in range(10):
            pixels = np.random.default_rng(sheet).integers(0, 255, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{sheet}.png")
    page = page_of(tmp_path / "root", tmp_path)
    assert page.count("data:image/webp;base64,") == 24
    assert "6 more are in the runs' directories." in page


@pytest.mark.long
def test_two_thousand_runs_are_a_few_megabytes(tmp_path: Path, make_run, write_done) -> None:
    for index in range(2000):
        run = make_run(f"checkpoint_{index // 5:03d}", seed=index % 5)
        write_done(tmp_path / "root", run, [Metric(name=name, value=index / 20, n=1000) for name in ("top1", "top5")])
    page = page_of(tmp_path / "root", tmp_path)
    assert len(details(page)) == 2000
    assert len(page.encode()) < 4_000_000
