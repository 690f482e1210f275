"""An inspection on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evaluate.checkpoints.inspect import Inspection
from evaluate.checkpoints.limits import readable

# More names than this make no list that anybody reads on a terminal; `--json` gives all of them.
NAMES_SHOWN = 24
PADDINGS = {
    "same": "SAME at stride 2, as in TensorFlow and JAX",
    "wide_stem": "2 pixels around the 3x3 stem, as in solo-learn on CIFAR",
}


def show(inspection: Inspection) -> RenderableType:
    """Tables of what the file is, its encoders and what is dropped, then the verdict."""
    parts: list[RenderableType] = [_facts(inspection)]
    if inspection.candidates:
        parts.append(_encoders(inspection))
    if inspection.dropped:
        parts.append(_dropped(inspection))
    for title, names in (
        ("missing", inspection.missing),
        ("wrong shape", inspection.misshapen),
        ("no place for", inspection.unexpected),
    ):
        if names:
            more = f" ... and {len(names) - NAMES_SHOWN} more (--json lists all)" if len(names) > NAMES_SHOWN else ""
            parts.append(Text(f"{title} ({len(names)}): {', '.join(names[:NAMES_SHOWN])}{more}"))
    parts += [Text(f"warning: {warning}", style="yellow") for warning in inspection.warnings]
    if inspection.not_run:
        parts.append(Text(f"left inert, not run: {', '.join(inspection.not_run)}"))
    if inspection.loads:
        parts.append(Text(f"loads as {inspection.backbone}", style="green"))
    else:
        # The lists above hold the names already: the sentence alone stays.
        listed = bool(inspection.missing or inspection.misshapen or inspection.unexpected)
        for objection in inspection.objections[:NAMES_SHOWN]:
            sentence = objection.split(":")[0] if listed else objection
            parts.append(Text(f"refused: {sentence}", style="bold red"))
    return Group(*parts)


def _facts(inspection: Inspection) -> Table:
    spec = inspection.input
    normalization = spec.normalization
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (normalization.mean, normalization.std))
    source = f"{spec.name or 'no preset'}, {spec.certainty}: {spec.why}"
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = [
        ("file", f"{readable(inspection.path)} ({inspection.size_bytes / 1e6:.1f} MB, {inspection.container})"),
        ("sha256", inspection.sha256),
        ("format", f"{' and '.join(inspection.formats)}: {inspection.title}"),
        ("told by", inspection.told_by),
        ("encoder", _chosen(inspection)),
        ("architecture", inspection.architecture or "unknown"),
        ("backbone", inspection.backbone or "none here has this shape"),
        (
            "input",
            f"{normalization.channels}, mean {mean}, std {std} ({source})",
        ),
    ]
    if inspection.padding != "symmetric":
        rows.append(("padding", PADDINGS[inspection.padding]))
    if inspection.stride_in_1x1:
        rows.append(("stride", "on the first 1x1 convolution of a block"))
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _chosen(inspection: Inspection) -> str:
    if inspection.chosen is None:
        return "undecided"
    return f"{inspection.chosen or 'the whole file, no prefix'} ({inspection.why})"


def _encoders(inspection: Inspection) -> Table:
    table = Table(title="encoders in the file", title_justify="left")
    for column in ("", "prefix (--select)", "tensors", "spelling", "architecture", "same bits as"):
        table.add_column(column, justify="right" if column == "tensors" else "left")
    for each in inspection.candidates:
        tensors = f"{each.tensors} + {each.counters}" if each.counters else str(each.tensors)
        equal = ", ".join(each.equal_to)
        table.add_row(
            "*" if each.chosen else "",
            Text(each.label or "(none)"),
            tensors,
            each.spelling,
            Text(each.architecture),
            Text(equal),
        )
    return table


def _dropped(inspection: Inspection) -> Table:
    table = Table(title="left out", title_justify="left")
    table.add_column("names")
    table.add_column("tensors", justify="right")
    table.add_column("why")
    for each in inspection.dropped[:NAMES_SHOWN]:
        table.add_row(Text(each.names), str(each.tensors), Text(each.reason))
    if (more := len(inspection.dropped) - NAMES_SHOWN) > 0:
        table.add_row(Text(f"and {more} more beginnings (--json lists all)"), "", "")
    return table
