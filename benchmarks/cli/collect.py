"""`fastmoco table | report`: from run directories to tables and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.cli import complete

Roots = Annotated[
    list[Path],
    typer.Option("--root", help="Folder with runs (searched to any depth), .jsonl or .parquet; may be given again."),
]
Format = Literal["md", "latex", "html", "csv"]


def add_to(app: typer.Typer) -> None:
    """Put this module's commands into `app`."""
    app.command()(table)
    app.command()(report)


def table(
    name: Annotated[
        str, typer.Argument(help="A table's name, or a file with its definition.", autocompletion=complete.tables)
    ],
    root: Roots,
    output_format: Annotated[Format, typer.Option("--format", help="How to write it.")] = "md",
    out: Annotated[
        Path | None, typer.Option("--out", help="Write to this file instead of the terminal.", show_default=False)
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace",
            metavar="ROW,COLUMN",
            help="Say where one cell comes from: runs, weights, commands, source.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="FILE.parquet",
            help="Also write all rows and runs there: --root takes such a file too.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a table of the results under the given folders.

    Example: fastmoco table summary --root runs/demo --format latex --out summary.tex
    """
    from pretrain.runtime.errors import InputError
    from pretrain.runtime.files import write_text
    from results.store import store
    from results.tables import named

    if export is not None and export.suffix != ".parquet":
        raise InputError(f"--export writes a Parquet file, so it must end in .parquet, not {export.name!r}")
    loaded = store.load(root)
    text = named.trace(name, loaded, trace) if trace else named.render(name, loaded, format=output_format)
    if export is not None:
        loaded.export(export)
        print(f"wrote {export}", file=sys.stderr)
    if out is None:
        print(text)
    else:
        write_text(out, text)
        print(f"wrote {out}")


def report(
    folder: Annotated[list[Path], typer.Argument(metavar="DIR", help="Folders with runs, searched to any depth.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file to write.")],
    plots: Annotated[
        Path | None,
        typer.Option("--plots", help="Also write each plot there, as SVG and PNG.", show_default=False),
    ] = None,
) -> None:
    """Write one HTML page of all results, with tables, plots, runs and pictures.

    Example: fastmoco report runs/demo --out report.html
    """
    from results.report.page import write_plots, write_report

    write_report(folder, out)
    print(f"wrote {out}")
    if plots is not None:
        for path in write_plots(folder, plots):
            print(f"wrote {path}")
