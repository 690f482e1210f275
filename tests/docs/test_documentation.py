"""The pages that are made from the code are fresh, and what the README and the pages name exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from benchmarks.cli import app


@pytest.fixture(scope="module")
def generate(repository: Path):
    spec = importlib.util.spec_from_file_location("docs_generate", repository / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "recipes.md", "protocols.md", "columns.md"])
def test_the_reference_is_fresh(generate, repository: Path, page: str) -> None:
    written = (repository / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert generate.PAGES[page]() == written, "make it fresh: python docs/generate.py"


def test_every_command_has_an_example(generate) -> None:
    for words, command in generate._walk(typer.main.get_command(app), ["fastmoco"]):
        assert "fastmoco" in (command.help or ""), f"{' '.join(words)} shows no example in its help"


def test_commands_named_in_the_pages_exist(generate, repository: Path) -> None:
    known = {tuple(words[1:]) for words, _ in generate._walk(typer.main.get_command(app), ["fastmoco"])}
    heads = {words[:1] for words in known} | known
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    named = {
        tuple(m.split())
        for page in pages
        for m in re.findall(r"^fastmoco ([a-z]+(?: [a-z]+\b)?)", page.read_text(), re.M)
    }
    assert named
    for words in named:
        assert words in known or (words[:1] in heads and words[:1] in known), f"no command 'fastmoco {' '.join(words)}'"


def test_make_targets_named_in_the_pages_exist(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.M))
    for page in [repository / "README.md", *(repository / "docs").glob("*.md")]:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)) <= targets, page


@pytest.mark.long
def test_the_site_builds_without_a_warning(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "protocols.html").is_file()
    page = (tmp_path / "site" / "index.html").read_text()
    assert not re.search(r'<(script|link)[^>]+(src|href)="https?://(?!github)', page.replace('rel="canonical"', ""))
