"""The JSON schemas are fresh, accept what the models accept and refuse what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from benchmarks.campaign.spec import Launch, Resources, load_spec
from benchmarks.schema import TITLES, attributes, schema, shipped
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError
from results.tables.definition import FOLDER, definitions


def objections(name: str, value: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema(name))
    return [error.message for error in validator.iter_errors(value)]


@pytest.mark.parametrize("name", TITLES)
def test_the_shipped_schemas_are_fresh(generate: ModuleType, name: str) -> None:
    assert shipped(name).read_text(encoding="utf-8") == generate.schema_text(name), "python docs/generate.py"
    jsonschema.Draft202012Validator.check_schema(json.loads(shipped(name).read_text(encoding="utf-8")))


def test_the_campaigns_of_the_package_are_accepted(repository: Path) -> None:
    files = sorted((repository / "benchmarks" / "campaigns").glob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        assert objections("spec", yaml.safe_load(file.read_text())) == [], file


def test_the_tables_of_the_package_are_accepted() -> None:
    assert len(definitions()) >= 8
    for name in definitions():
        value = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
        assert objections("table", value) == [], name
    assert objections("table", {"title": "x", "columns": "all"})
    assert objections("table", {"title": "x", "columns": [{"label": "a", "digit": 1}]})


def test_the_catalog_of_the_examples_is_accepted(repository: Path) -> None:
    text = (repository / "docs" / "examples" / "catalog.yaml").read_text()
    assert objections("catalog", yaml.safe_load(text)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "{name: x, evaluat: []}",
        "{pretrain: {a: {recipe: shapes_demo, data: shapes}}}",
        "{name: x, pretrain: {a: {recipe: shapes_dem, data: shapes}}}",
        "{name: x, pretrain: {a: {recipe: shapes_demo, data: shapes}}, evaluate: [{task: kn, data: shapes}]}",
        "{name: x, checkpoints: {a: {file: f}}, evaluate: [{task: knn, data: s, protocol: moco_v2}]}",
        "{name: x, checkpoints: {a: {file: f}}, evaluate: [{task: knn, data: s}], launch: {workers: 0}}",
        "{name: x, checkpoints: {a: {file: f}}, evaluate: [{task: knn, data: s}], launch: {slurm: {gpus: 8}}}",
    ],
)
def test_what_the_models_refuse_in_a_spec_the_schema_refuses(wrong: str, tmp_path: Path) -> None:
    assert objections("spec", yaml.safe_load(wrong))
    path = tmp_path / "spec.yaml"
    path.write_text(wrong)
    if "protocol" in wrong or "shapes_dem," in wrong:  # names are looked up when the campaign is planned
        return
    with pytest.raises(InputError):
        load_spec(path)


@pytest.mark.parametrize(
    ("entry", "right"),
    [
        ("{format: parquet, train: a.parquet, test: [b.parquet, c.parquet], classes: 10}", True),
        ("{format: parquet, train: a.parquet, classes: [cat, dog]}", True),
        ("{format: parquet, train: []}", False),
        ("{format: parquet, train: a.parquet, root: x}", False),
        ("{format: parket, train: a.parquet}", False),
        ("{format: masks, train: {images: a, masks: b}}", False),
        ("{format: shapes, size: 8, train: 10}", False),
    ],
)
def test_schema_and_model_of_the_catalog_agree(entry: str, right: bool, tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(f"x: {entry}\n")
    assert (objections("catalog", yaml.safe_load(path.read_text())) == []) is right
    if right:
        assert "x" in Catalog.load(path).names()
    else:
        with pytest.raises(InputError):
            Catalog.load(path)


def test_the_docstrings_lists_become_descriptions() -> None:
    assert attributes(Resources)["gpus_per_node"].startswith("of a pretraining; one process a GPU")
    made = schema("spec")["$defs"]
    assert made["Launch"]["properties"]["pack"]["description"] == attributes(Launch)["pack"]
    assert "knn" in made["EvaluateEntry"]["properties"]["task"]["enum"]


def test_the_command_prints_the_schema_and_where_it_lies() -> None:
    fastmoco = str(Path(sys.executable).with_name("fastmoco"))
    for name in TITLES:
        printed = subprocess.run([fastmoco, "schema", name], capture_output=True, text=True, check=True).stdout
        assert json.loads(printed)["title"] == TITLES[name]
        where = subprocess.run([fastmoco, "schema", name, "--path"], capture_output=True, text=True, check=True)
        assert Path(where.stdout.strip()) == shipped(name)
