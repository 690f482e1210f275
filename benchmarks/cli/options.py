"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pretrain.data.catalog import Catalog

CatalogOption = Annotated[
    Path | None,
    typer.Option(
        "--catalog",
        help="The data catalog (YAML); $FASTMOCO_CATALOG when not given. The generated sets need none.",
        show_default=False,
    ),
]
Device = Literal["auto", "cpu", "cuda"]
DeviceOption = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes a GPU if there is one.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change a value: key=value, keys may be dotted; may be given again.", show_default=False
    ),
]
RootOption = Annotated[Path, typer.Option("--root", help="Folder of the campaign's runs, plan and tables.")]

_before_the_command: list[Path | None] = [None]


def remember_catalog(catalog: Path | None) -> None:
    """Keep a `--catalog` that stood before the command."""
    _before_the_command[0] = catalog


def load_catalog(catalog: Path | None) -> Catalog:
    """The catalog that stands among the command's options, else before it, else in the environment."""
    from pretrain.data.catalog import Catalog

    return Catalog.load(catalog or _before_the_command[0])
