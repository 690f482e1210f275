"""What tests of every room use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
CHROMIUM_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets with its catalog.yaml; the test skips where there is none."""
    folder = Path(os.environ.get("FASTMOCO_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "catalog.yaml").is_file():
        pytest.skip(f"needs the real data sets: {folder} has no catalog.yaml (FASTMOCO_TEST_DATA names another folder)")
    return folder


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    """A headless Chromium that logs its console and every request; the test skips where there is none."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    chromium, driver_program = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_program is None:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in CHROMIUM_FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_program))
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Features and generated sets of a test must neither come from nor go to the user's cache. One folder a session, as
    # making the same set again in each test would take longer than the tests.
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("FASTMOCO_CATALOG", raising=False)
