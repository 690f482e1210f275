"""The parts made from the code are fresh, everything there is is documented, and what the pages name exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
import typer.main
import yaml

from benchmarks.campaign.spec import CampaignSpec, EvaluateEntry, Launch, Resources
from benchmarks.cli import app
from evaluate.checkpoints.formats import FORMATS
from evaluate.task import TASKS, protocols
from pretrain.backbones.registry import names
from pretrain.data.catalog import Catalog
from pretrain.recipes import RECIPES
from results.readme import MEASURED, refreshed
from results.store.columns import COLUMNS
from results.tables.definition import definitions

ROOT = typer.main.get_command(app)
FASTMOCO = Path(sys.executable).with_name("fastmoco")


def heads(page: str) -> set[str]:
    return set(re.findall(r"^#+ (.+)$", page, re.M))


def test_the_generated_pages_are_fresh(generate: ModuleType, repository: Path) -> None:
    folder = repository / "docs" / "reference"
    stale = [
        page
        for page, make in generate.PAGES.items()
        if not (folder / page).exists() or (folder / page).read_text(encoding="utf-8") != make()
    ]
    assert not stale, "make them fresh: python docs/generate.py"
    assert {page.name for page in folder.glob("*.md")} == set(generate.PAGES)


def test_every_measured_file_has_its_table_and_the_tables_are_fresh(generate: ModuleType) -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in generate.WITH_MEASURED)
    fresh = generate.with_test_sizes(generate.with_costs(refreshed(text)))
    assert fresh == text, "make it fresh: python docs/generate.py"
    files = {file.name for file in MEASURED.glob("*.json*")}
    blocks = re.findall(r"<!-- (?:table \S+|costs) from (.+?)(?: against .+?)? -->", text)
    assert {file for block in blocks for file in block.split(" and ")} | {"test_size.json"} == files


def test_everything_there_is_is_documented(written: dict[str, str]) -> None:
    for task in TASKS:
        assert f"[{task}](protocols_{task}.md)" in written["reference/protocols.md"]
        assert set(protocols(task)) <= heads(written[f"reference/protocols_{task}.md"])
    assert set(RECIPES) <= heads(written["reference/recipes.md"])
    assert {one.name for one in FORMATS} <= heads(written["reference/formats.md"])
    assert set(definitions()) <= heads(written["reference/tables.md"])
    for word, page in ((COLUMNS, "columns"), (names(), "backbones")):
        assert all(f"`{name}`" in written[f"reference/{page}.md"] for name in word)
    catalog = heads(written["reference/catalog.md"])
    assert {"parquet", "imagefolder", "filelist", "tar", "torchvision", "voc", "coco", "masks", "shapes"} <= catalog
    for model in (CampaignSpec, EvaluateEntry, Launch, Resources):
        assert all(f"`{field}`" in written["reference/spec.md"] for field in model.model_fields)


def test_every_field_of_a_protocol_says_what_it_means(written: dict[str, str]) -> None:
    for task in TASKS:
        page = written[f"reference/protocols_{task}.md"]
        meanings = page.partition("## What the fields mean")[2].partition("\n## ")[0]
        for protocol in protocols(task).values():
            fields = set(type(protocol).model_fields) - {"name", "source", "sources"}
            silent = {field for field in fields if f"`{field}`" not in meanings}
            assert not silent, f"{task}: the docstring of {type(protocol).__name__} says nothing of {sorted(silent)}"


def test_every_command_and_option_is_documented(generate: ModuleType, written: dict[str, str]) -> None:
    page = written["reference/commands.md"]
    for words, command in generate.walk(ROOT, ["fastmoco"]):
        section = page.partition(f"## {' '.join(words)}\n")[2].partition("\n## ")[0]
        assert section, words
        for parameter in command.params:
            assert all(option in section for option in parameter.opts if option.startswith("--")), parameter


def examples() -> list[str]:
    def walk(command: click.Command) -> list[str]:
        children = getattr(command, "commands", {})
        return [text for child in children.values() for text in walk(child)] or [command.help or ""]

    return [help_text.rpartition("Example: ")[2].strip() for help_text in walk(ROOT)]


def parsed(line: str) -> click.Context:
    """The command line as click reads it: unknown commands, options and values raise."""
    words = shlex.split(line, comments=True)
    assert words[0] == "fastmoco"
    command, at = ROOT, 1
    while at < len(words) and (children := getattr(command, "commands", None)):
        if words[at] == "--catalog":  # may stand before the command
            at += 2
        elif words[at].startswith("-"):
            at += 1
        else:
            assert words[at] in children, f"no command '{words[at]}' in: {line}"
            command, at = children[words[at]], at + 1
    return command.make_context(" ".join(words[:at]), words[at:])


@pytest.mark.parametrize("line", examples())
def test_every_command_has_an_example_that_parses(line: str) -> None:
    assert line.startswith("fastmoco "), line
    parsed(line)


@pytest.mark.parametrize(
    "line", [line for line in examples() if re.match(r"fastmoco (recipes|schema|campaign plan)", line)]
)
def test_examples_that_only_print_run(line: str, repository: Path) -> None:
    command = [str(FASTMOCO), *shlex.split(line)[1:]]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def shell_lines(text: str) -> list[str]:
    """The lines of a page's shell blocks, continued lines joined."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for kind, code in blocks if kind == "bash" for line in code.replace("\\\n", " ").splitlines()]


def test_command_lines_of_the_pages_parse(written: dict[str, str]) -> None:
    found = 0
    for page, text in written.items():
        if page.startswith("reference/"):
            continue
        for line in shell_lines(text):
            line = re.sub(r"^(\w+=\S* )+", "", line)  # variables set for the command
            if line.startswith("fastmoco "):
                parsed(line.partition(" > ")[0])
                found += 1
    assert found > 20


def test_names_in_the_commands_of_the_pages_exist(written: dict[str, str]) -> None:
    for page, text in written.items():
        for task, protocol in re.findall(r"fastmoco evaluate (\w+) .*?--protocol (\w+)", text):
            assert protocol in protocols(task), f"{page}: {task} {protocol}"
        for recipe in re.findall(r"--recipe (\w+)(?![\w.])", text):
            assert recipe in RECIPES or recipe.isupper() or f"{recipe}.yaml" in text, f"{page}: {recipe}"


def test_make_targets_named_in_the_pages_exist(repository: Path, written: dict[str, str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repository / "Makefile").read_text(), re.M))
    for page, text in written.items():
        named = re.findall(r"`make ([a-z-]+)", text)
        named += [line.split()[1] for line in shell_lines(text) if line.startswith("make ")]
        assert set(named) <= targets, page


def test_the_catalog_of_the_examples_is_one(repository: Path) -> None:
    path = repository / "docs" / "examples" / "catalog.yaml"
    assert set(yaml.safe_load(path.read_text())) <= set(Catalog.load(path).names())
