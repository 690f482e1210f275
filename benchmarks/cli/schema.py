"""`fastmoco schema`: JSON schemas by which editors complete and check specs and catalogs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Which = Annotated[
    Literal["spec", "catalog", "table"],
    typer.Argument(help="spec (of a campaign), catalog (of data) or table (a definition).", metavar="NAME"),
]


def add_to(app: typer.Typer) -> None:
    """Put this module's command into `app`."""
    app.command()(schema)


def schema(
    name: Which,
    path: Annotated[bool, typer.Option("--path", help="Print where the file lies instead of its content.")] = False,
) -> None:
    """Print the JSON schema of campaign specs, data catalogs or table definitions, for editors.

    An editor with a YAML language server completes a file that begins with this line:
    # yaml-language-server: $schema=PATH

    Example: fastmoco schema catalog --path
    """
    from benchmarks.schema import shipped

    file = shipped(name)
    print(file if path else file.read_text(encoding="utf-8"), end="\n" if path else "")
