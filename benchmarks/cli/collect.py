"""`fastmoco table | report`: from run directories to tables and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmarks.cli import complete

if TYPE_CHECKING:
    from results.store.store import Store

Roots = Annotated[
    list[Path],
    typer.Option(
        "--root",
        help="Folder with runs (searched to any depth), .jsonl or .parquet; may be given again.",
        show_default=False,
    ),
]
_FILES_OF_A_RUN = ("run.json", "result.json", "metrics.jsonl", "attempts.jsonl", "log.txt", "request.json")
Format = Literal["md", "latex", "html", "csv"]
_NO_ROOTS: list[Path] = []


def add_to(app: typer.Typer) -> None:
    """Put this module's commands into `app`."""
    app.command()(table)
    app.command()(report)


def table(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A table's name, or a file with its definition; without one, all are listed.",
            autocompletion=complete.tables,
            show_default=False,
        ),
    ] = None,
    root: Roots = _NO_ROOTS,
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
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="ROW", help="Show differences to this row, with intervals and p.", show_default=False
        ),
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="List instead the runs that today's code would do otherwise, and why.")
    ] = False,
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

    On a terminal it is drawn; elsewhere, and with --out, it is written in the format asked for.

    Example: fastmoco table summary --root runs/demo --format latex --out summary.tex
    """
    from benchmarks.campaign.stale import stale as stale_runs
    from pretrain.runtime.errors import InputError
    from pretrain.runtime.files import write_text
    from results.tables import drawn, named

    if name is None and not stale:
        for known, title in named.titles().items():
            print(f"{known:24} {title}")
        return
    if not root:
        raise InputError("where are the runs? give --root DIR, for instance --root runs/demo")
    if export is not None and export.suffix != ".parquet":
        raise InputError(f"--export writes a Parquet file, so it must end in .parquet, not {export.name!r}")
    for target in (out, export):
        _refuse_to_replace_results(target, root)
    loaded = _loaded(root)
    old = stale_runs(loaded)
    if stale:
        text = "".join(f"{run_id}: {why}\n" for run_id, why in sorted(old.items()))
        text += f"{len(old)} of {len(loaded.runs)} runs would be done otherwise today\n"
    elif trace:
        text = named.trace(str(name), loaded, trace, stale=old)
    else:
        built = named.table(str(name), loaded, against=against, stale=old)
        if not (built.has_measured or built.has_published):
            where = ", ".join(map(str, root))
            raise InputError(
                f"table '{name}' has nothing to show: none of the {len(loaded.runs)} runs under {where} belongs into it"
            )
        if output_format == "md" and out is None and sys.stdout.isatty():
            drawn.draw(built)
            text = ""
        else:
            text = named.FORMATS[output_format](built)
    if export is not None:
        loaded.export(export)
        print(f"wrote {export}", file=sys.stderr)
    if out is None:
        print(text, end="" if stale or not text else None)
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
    from benchmarks.campaign.stale import stale as stale_runs
    from results.report.page import write_plots, write_report

    _refuse_to_replace_results(out, folder)
    write_report(folder, out, stale=stale_runs(_loaded(folder)))
    print(f"wrote {out}")
    if plots is not None:
        for path in write_plots(folder, plots):
            print(f"wrote {path}")


def _loaded(roots: list[Path]) -> Store:
    """The runs under the roots. Raises InputError, with where they were looked for, when there is none."""
    from pretrain.runtime.errors import InputError
    from results.store.store import load

    loaded = load(roots)
    if loaded.runs.empty:
        where = ", ".join(str(root.absolute()) for root in roots)
        kinds = sorted({problem.kind for problem in loaded.problems})
        found = f"; {len(loaded.problems)} files there are not whole runs ({', '.join(kinds)})" if kinds else ""
        raise InputError(
            f"no run found under {where}, searched to any depth for result.json, failed.json and run.json{found}"
        )
    return loaded


def _refuse_to_replace_results(out: Path | None, roots: list[Path]) -> None:
    """Raises InputError: what is to be written would replace rows that are read, or a file of a run."""
    from pretrain.runtime.errors import InputError

    if out is None or not out.exists():
        return
    if out.is_dir():
        raise InputError(f"{out} is a folder; expected the name of the file to write")
    of_a_run = out.name in _FILES_OF_A_RUN and (out.parent / "run.json").exists()
    if of_a_run or any(root.exists() and out.samefile(root) for root in roots):
        raise InputError(f"{out} holds results that would be replaced; give another file")
