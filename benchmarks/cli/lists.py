"""`fastmoco recipes | protocols | doctor`: what there is, and what works here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarks.cli import complete
from pretrain.runtime.errors import unknown

if TYPE_CHECKING:
    from pretrain.runtime.settings import Settings

_NAME = "A name; without one, all are listed."
_OTHER = "A second name: what differs between the two."
RecipeName = Annotated[
    str | None, typer.Argument(help=_NAME, show_default=False, metavar="[NAME]", autocompletion=complete.recipes)
]
OtherRecipe = Annotated[
    str | None, typer.Argument(help=_OTHER, show_default=False, metavar="[OTHER]", autocompletion=complete.recipes)
]
ProtocolName = Annotated[
    str | None, typer.Argument(help=_NAME, show_default=False, metavar="[NAME]", autocompletion=complete.protocols)
]
OtherProtocol = Annotated[
    str | None, typer.Argument(help=_OTHER, show_default=False, metavar="[OTHER]", autocompletion=complete.protocols)
]


def add_to(app: typer.Typer) -> None:
    """Put this module's commands into `app`."""
    app.command()(recipes)
    app.command()(protocols)
    app.command()(doctor)


def recipes(name: RecipeName = None, other: OtherRecipe = None) -> None:
    """List the recipes of pretraining, show one with the source of its numbers, or what differs between two.

    Example: fastmoco recipes r50_e100 r50_e400
    """
    from pretrain.recipes import RECIPES

    _show("recipe", RECIPES, name, other)
    if name is not None and other is None:
        _show_conformance("pretrain", name)


def protocols(
    task: Annotated[
        str | None,
        typer.Argument(help="A task; without one, all are listed.", show_default=False, autocompletion=complete.tasks),
    ] = None,
    name: ProtocolName = None,
    other: OtherProtocol = None,
) -> None:
    """List tasks and their protocols, show one with the source of its numbers, or what differs between two.

    Example: fastmoco protocols linear sweep
    """
    from evaluate.task import TASKS
    from evaluate.task import protocols as of_task

    if task is None:
        for known, entry in TASKS.items():
            print(f"{known:14} {entry.summary}; measures {entry.metric}")
            for protocol in of_task(known):
                print(f"{'':14}   {protocol}")
        return
    _show(f"protocol of {task}", of_task(task), name, other)
    if name is not None and other is None:
        _show_conformance(task, name)


def doctor() -> None:
    """Say which versions and devices there are, what works here, and what to install for the rest.

    Example: fastmoco doctor
    """
    from benchmarks.doctor import examine

    print(examine())


def _show(kind: str, known: Mapping[str, Settings], name: str | None, other: str | None) -> None:
    for given in (name, other):
        if given is not None and given not in known:
            raise unknown(kind, given, known)
    if name is None:
        width = max((len(each) for each in known), default=0)
        for each, settings in known.items():
            print(f"{each:{width}}  {getattr(settings, 'source', '')}")
    elif other is None:
        _show_one(known[name])
    else:
        differences = known[name].differences(known[other])
        rows = {
            key: pair for key, pair in differences.items() if key.partition(".")[0] not in ("name", "source", "sources")
        }
        if not rows:
            print(f"{name} and {other} hold the same values")
        width = max((len(key) for key in rows), default=0)
        for key, (here, there) in rows.items():
            print(f"{key:{width}}  {name}: {here}   {other}: {there}")


def _show_one(settings: Settings) -> None:
    values = settings.model_dump(mode="json")
    sources: dict[str, Any] = values.pop("sources", {})
    flat = _flat(values)
    width = max(len(key) for key in flat)
    for key, value in flat.items():
        source = sources.get(key) or sources.get(key.partition(".")[0])
        print(f"{key:{width}}  {value}{f'   [{source}]' if source else ''}")


def _show_conformance(task: str, name: str) -> None:
    from evaluate.protocols.conformance import row

    found = row(task, name)
    if found is None:
        return
    print("\nconformance")
    for what, text in found.lines(task):
        print(f"  {what:13} {text}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
