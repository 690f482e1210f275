"""`fastmoco data list | check | make`: the sets of the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.options import CatalogOption, load_catalog

app = typer.Typer(help="The data sets of the catalog.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_sets(catalog: CatalogOption = None) -> None:
    """List the data sets, their formats and splits.

    Example: fastmoco data list --catalog catalog.yaml
    """
    from pretrain.data import check

    print(check.list_sets(load_catalog(catalog)))


@app.command("check")
def check_set(
    name: Annotated[str, typer.Argument(help="A data set of the catalog.")],
    open_images: Annotated[
        bool, typer.Option("--open", help="Decode every image; the damaged ones are named.")
    ] = False,
    catalog: CatalogOption = None,
) -> None:
    """Count a data set's classes and images, and say what is missing and where people get it (then exit code 1).

    Example: fastmoco data check shapes --open
    """
    from pretrain.data import check

    report = check.check_set(load_catalog(catalog), name, open_images=open_images)
    print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command("make")
def make_set(
    name: Annotated[str, typer.Argument(help="A generated data set: shapes or scenes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write it to.")],
    catalog: CatalogOption = None,
) -> None:
    """Write a generated data set to disk as files.

    Example: fastmoco data make scenes --out data/scenes
    """
    from pretrain.data import check

    print(check.make_set(load_catalog(catalog), name, out))
