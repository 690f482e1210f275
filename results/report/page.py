"""The report: one HTML page that needs no server and no network, with every table, plot, run and failure."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_text
from results.report import plots
from results.report.figures import figures
from results.store.lookup import Row, records
from results.store.store import Store, load
from results.tables import named
from results.tables.html import environment
from results.tables.rendering import report_legend
from results.tables.table import Table

# A page of a few MB: sheets beyond these stay in the runs' directories, and the page says so.
_MAX_PICTURES, _PICTURE_WIDTH, _PICTURE_BYTES = 24, 960, 2_500_000
_LOG_LINES, _LOG_BYTES = 30, 6_000
_MAIN = ("metric", "value", "unit", "selection")
_PROVENANCE = {
    "protocol_values": "protocol",
    "checkpoint_ref": "weights",
    "checkpoint_sha256": "weights SHA-256",
    "checkpoint_detail": "read as",
    "method": "method",
    "backbone": "backbone",
    "recipe": "recipe",
    "epoch": "epochs",
    "pretrain_seed": "pretraining seed",
    "data_identity": "data identity",
    "code_version": "code",
    "packages": "packages",
    "world_size": "processes",
    "device": "device",
    "host": "host",
    "started": "started",
    "ended": "ended",
    "wall_s": "seconds",
    "peak_mem_bytes": "peak memory, bytes",
    "command": "command",
    "path": "directory",
}


def write_report(roots: Sequence[Path], out: Path, *, stale: Mapping[str, str] | None = None) -> None:
    """Write the report of every run under `roots` to `out`. `stale`: as `page`.

    Raises:
        InputError: as `results.store.store.load`.
    """
    write_text(Path(out), page(load(roots), [str(root) for root in roots], stale=stale))


def page(store: Store, roots: Sequence[str], *, stale: Mapping[str, str] | None = None) -> str:
    """The report's HTML; the same runs give the same bytes.

    `stale`: run id -> why today's code would do that run otherwise.
    """
    names = ["summary", *(name for name in named.definitions() if name != "summary")]
    built = [named.table(name, store, stale=stale) for name in names]
    shown = [table for table in built if table.name == "summary" or _has_numbers(table)]
    pictures, left_out = _pictures(store)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            roots=roots,
            store=store,
            counts=store.runs["state"].value_counts().to_dict(),
            tables=shown,
            plots=[
                (one.name, one.title, one.about, _themed(plots.svg(one.figure, text_as_text=True), one.name))
                for one in figures(store, {table.name: table for table in built})
            ],
            runs=_runs(store),
            details=_details(store),
            failures=_failures(store),
            pictures=pictures,
            left_out=left_out,
            legend=report_legend(shown),
            stale=stale or {},
            ended=store.runs["ended"].dropna().max() if store.runs["ended"].notna().any() else None,
        )
    )


def write_plots(roots: Sequence[Path], folder: Path) -> list[Path]:
    """Write each plot of the runs under `roots` as SVG and PNG into `folder`; the files' paths.

    Raises:
        InputError: as `results.store.store.load`.
    """
    store = load(roots)
    built = {name: named.table(name, store) for name in ("summary", "paper/ablation_grid")}
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [path for one in figures(store, built) for path in plots.save(one.figure, Path(folder) / one.name)]


def _has_numbers(table: Table) -> bool:
    return any(cell.measured for row in table.cells for cell in row)


def _themed(svg: str, prefix: str) -> Markup:
    """The drawing with the page's colours in place of its own, and ids that no other drawing on the page has."""
    svg = svg[svg.index("<svg") :]
    svg = (
        svg.replace('id="', f'id="{prefix}-')
        .replace("url(#", f"url(#{prefix}-")
        .replace('href="#', f'href="#{prefix}-')
    )
    for index, colour in enumerate(plots.SERIES, 1):
        svg = svg.replace(colour, f"var(--s{index})")
    svg = svg.replace(plots.INK, "var(--ink)").replace(plots.GRID, "var(--rule)")
    svg = svg.replace("stroke: #ffffff", "stroke: var(--paper)")
    return Markup(svg)  # drawn by us: matplotlib escaped the labels


def _runs(store: Store) -> list[dict[str, Any]]:
    main = {row["run_id"]: row for row in records(store.rows[store.rows["rank"] == 0][[*_MAIN, "run_id"]])}
    nothing: Row = dict.fromkeys(_MAIN)
    return [run | {name: main.get(run["run_id"], nothing)[name] for name in _MAIN} for run in records(store.runs)]


def _details(store: Store) -> Markup:
    """Every run's provenance as JSON: values that many runs share (packages, protocols) stand once in `texts`."""
    texts: dict[str, int] = {}
    metrics: dict[str, list[list[str]]] = {}
    for row in records(store.rows[["run_id", *_MAIN]]):
        shown = [row["metric"], f"{row['value']:.6g}", row["unit"], row["selection"]]
        metrics.setdefault(row["run_id"], []).append(shown)
    runs = []
    for run in records(store.runs):
        values = [
            -1 if run[name] in (None, "{}") else texts.setdefault(str(run[name]), len(texts)) for name in _PROVENANCE
        ]
        runs.append([run["run_id"], values, metrics.get(run["run_id"], [])])
    value = {"labels": list(_PROVENANCE.values()), "texts": list(texts), "runs": runs}
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    # Nothing in the data may end the script element that it stands in.
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _failures(store: Store) -> list[dict[str, str]]:
    failed = store.runs[store.runs["state"] != "done"]
    return [
        {
            "run_id": run["run_id"],
            "state": run["state"],
            "error": run["error"] if isinstance(run["error"], str) else "",
            "log": _log_tail(Path(run["path"]) / "log.txt"),
        }
        for run in failed.to_dict("records")
    ]


def _log_tail(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _LOG_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _pictures(store: Store) -> tuple[list[tuple[str, str, str]], int]:
    """(run, file name, data URI) of the prediction sheets, and how many were left out."""
    found: list[tuple[str, str, str]] = []
    size = left_out = 0
    wanted = store.runs[store.runs["task"].isin(["detection", "segmentation"])]
    for run_id, directory in zip(wanted["run_id"], wanted["path"], strict=True):
        for path in sorted((Path(directory) / "pictures").glob("*.png")):
            if len(found) >= _MAX_PICTURES or size > _PICTURE_BYTES:
                left_out += 1
                continue
            content = _small(path)
            size += len(content)
            found.append((run_id, path.name, "data:image/webp;base64," + base64.b64encode(content).decode()))
    return found, left_out


def _small(path: Path) -> bytes:
    try:
        with Image.open(path) as image:
            image.thumbnail((_PICTURE_WIDTH, 4 * _PICTURE_WIDTH))
            stream = io.BytesIO()
            image.convert("RGB").save(stream, "WEBP", quality=80)
            return stream.getvalue()
    except OSError as error:
        raise InputError(f"{path} is no picture: {error}") from None
