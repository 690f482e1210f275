"""The scripts of docs/ as modules, and what the pages say."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def _script(name: str) -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="session")
def generate() -> ModuleType:
    return _script("generate")


@pytest.fixture(scope="session")
def run_blocks() -> ModuleType:
    return _script("run_blocks")


@pytest.fixture(scope="session")
def pictures() -> ModuleType:
    return _script("pictures")


@pytest.fixture(scope="session")
def written(repository: Path) -> dict[str, str]:
    """Page -> text, the README and CONTRIBUTING among them."""
    pages = {page: (DOCS / page).read_text(encoding="utf-8") for page in PAGES}
    return pages | {name: (repository / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md")}
