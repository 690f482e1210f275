"""What tests of every room use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Features and generated sets of a test must neither come from nor go to the user's cache. One folder a session, as
    # making the same set again in each test would take longer than the tests.
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("FASTMOCO_CATALOG", raising=False)
