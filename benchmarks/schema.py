"""JSON schemas of the files that users write, made from the models that read them: editors complete and check by them.

The schemas lie in `benchmarks/schemas/` and are part of the package; `python docs/generate.py` makes them fresh.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from benchmarks.campaign.spec import CampaignSpec
from evaluate.task import TASKS, protocols
from pretrain.data.entries import Entry
from pretrain.recipes import RECIPES
from pretrain.runtime.errors import unknown
from results.tables.definition import Definition

FOLDER = Path(__file__).with_name("schemas")
TITLES = {
    "spec": "Campaign spec of fastmoco",
    "catalog": "Data catalog of fastmoco",
    "table": "Table definition of fastmoco",
}
_ROOTS: dict[str, Any] = {"spec": CampaignSpec, "catalog": dict[str, Entry], "table": Definition}
_SECTION = re.compile(r"^(Attributes|Raises|Args|Returns):$", re.MULTILINE)


def shipped(name: str) -> Path:
    """Where the schema of "spec", "catalog" or "table" lies. Raises InputError for another name."""
    if name not in TITLES:
        raise unknown("schema", name, TITLES)
    return FOLDER / f"{name}.schema.json"


def schema(name: str) -> dict[str, Any]:
    """The schema of "spec", "catalog" or "table", made from the models. Raises InputError for another name."""
    if name not in TITLES:
        raise unknown("schema", name, TITLES)
    adapter: TypeAdapter[Any] = TypeAdapter(_ROOTS[name])
    made = adapter.json_schema(ref_template="#/$defs/{model}")
    for model in models(name):
        place = made if model is _ROOTS[name] else made["$defs"][model.__name__]
        place["description"] = summary(model)
        for field, text in attributes(model).items():
            if field in place.get("properties", {}):
                place["properties"][field]["description"] = text
    if name == "spec":
        _complete_names(made["$defs"])
    elif name == "catalog":
        _allow_one_path(made["$defs"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": TITLES[name]}


def summary(model: type[BaseModel]) -> str:
    """A model's docstring without its lists of attributes and errors, as one line."""
    text = _SECTION.split(inspect.getdoc(model) or "")[0]
    return re.sub(r"\s+", " ", text).strip()


def attributes(model: type[BaseModel]) -> dict[str, str]:
    """Field -> what the docstring of the model, or of one it derives from, says of it.

    A field without an entry of its own gets the entry, or else the paragraph above the list, that speaks of it by name.
    """
    found: dict[str, str] = {}
    own = [one for one in model.__mro__ if not one.__module__.startswith(("pydantic", "builtins"))]
    for one in reversed(own):
        parts = _SECTION.split(inspect.cleandoc(one.__doc__ or ""))
        for head, body in zip(parts[1::2], parts[2::2], strict=True):
            if head != "Attributes":
                continue
            for entry in re.split(r"\n(?=    \S)", body.strip("\n")):
                names, colon, text = entry.strip().partition(": ")
                if colon and text.strip() != "see above.":
                    sentence = re.sub(r"\s+", " ", text).strip()
                    found |= {field.strip(): sentence for field in names.split(",")}
    whole = [re.sub(r"\s+", " ", text) for one in own for text in (one.__doc__ or "").split("\n\n")[1:]]
    for field in set(model.model_fields) - set(found):
        speaks = re.compile(rf"(^|[\s,;(`]){field}(?=[\s,;)`.]|$)")
        place = next(
            (text for text in [*found.values(), *whole] if speaks.search(text) and "Attributes:" not in text), None
        )
        if place is not None:
            found[field] = place.strip()
    return {field: found[field] for field in (*model.model_fields, *found) if field in found}


def models(name: str) -> list[type[BaseModel]]:
    """The models that a schema is made of; bases that no key holds are left out."""
    from benchmarks.campaign import spec
    from pretrain.data import entries
    from results.tables import definition

    module = {"spec": spec, "catalog": entries, "table": definition}[name]
    classes = [value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, BaseModel)]
    own = [one for one in classes if one.__module__ == module.__name__]
    used = TypeAdapter(_ROOTS[name]).json_schema()["$defs"]
    return [one for one in own if one is _ROOTS[name] or one.__name__ in used]


def _complete_names(definitions: dict[str, Any]) -> None:
    """Offer the names that exist: tasks, recipes (a file is as good) and each task's protocols."""
    entry = definitions["EvaluateEntry"]
    entry["properties"]["task"]["enum"] = list(TASKS)
    entry["allOf"] = [
        {
            "if": {"properties": {"task": {"const": task}}, "required": ["task"]},
            "then": {"properties": {"protocol": {"enum": [*protocols(task), None]}}},
        }
        for task in TASKS
    ]
    recipe = definitions["PretrainEntry"]["properties"]["recipe"]
    recipe.pop("type", None)
    recipe["anyOf"] = [{"enum": list(RECIPES)}, {"type": "string", "pattern": r"\.ya?ml$"}]


def _allow_one_path(definitions: dict[str, Any]) -> None:
    """Where several paths may stand, the models take a single string as well."""
    for definition in definitions.values():
        for found in definition["properties"].values():
            for kind in found.get("anyOf", []):
                # pydantic writes the smallest number of paths, 1, as the length of a string.
                if kind.get("type") == "array" and kind.pop("minLength", None):
                    kind["minItems"] = 1
                    found["anyOf"] = [{"type": "string"}, *found["anyOf"]]
