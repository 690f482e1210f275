"""`fastmoco data list | check | make`: the sets of the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import CatalogOption, load_catalog

app = typer.Typer(help="The data sets of the catalog.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_command(catalog: CatalogOption = None) -> None:
    """List the data sets, their formats and splits.

    Example: fastmoco data list --catalog catalog.yaml
    """
    from pretrain.data.inventory import list_sets

    print(list_sets(load_catalog(catalog)))


@app.command("check")
def check_command(
    name: Annotated[str, typer.Argument(help="A data set of the catalog.")],
    open_images: Annotated[
        bool,
        typer.Option("--open", help="Decode every image on all cores, and report damaged ones and near duplicates."),
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with a contact sheet of each class there.")
    ] = None,
    catalog: CatalogOption = None,
) -> None:
    """Say what a data set holds, what is missing or damaged in it, and what evaluation would refuse (exit code 1).

    Example: fastmoco data check shapes --open --html shapes.html
    """
    from pretrain.data.gate.check import check_set

    report = check_set(load_catalog(catalog), name, open_images=open_images, page=html)
    print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("make")
def make_command(
    name: Annotated[str, typer.Argument(help="A generated data set: shapes or scenes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write it to.")],
    catalog: CatalogOption = None,
) -> None:
    """Write a generated data set to disk as files.

    Example: fastmoco data make scenes --out data/scenes
    """
    from pretrain.data.inventory import make_set

    print(make_set(load_catalog(catalog), name, out))
