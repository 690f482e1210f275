"""How often tests err where nothing differs, as `results.tables.simulation` wrote it: a table and a figure."""

from __future__ import annotations

import json
import re
from typing import Any

from markdown_parts import table
from matplotlib.figure import Figure

from results.report import plots
from results.tables import simulation

_BLOCK = re.compile(r"(<!-- test sizes -->\n).*?(<!-- end -->)", re.DOTALL)
_BOLD = re.compile(r"(<!-- best left out -->\n).*?(<!-- end -->)", re.DOTALL)
_NAMES = {
    "ours": "ours",
    "Welch on the means alone": "Welch's, on the pretrainings' means alone",
    "t with Satterthwaite's freedom": "t, Satterthwaite's degrees of freedom",
    "bootstrap": "bootstrap of samples and pretrainings",
}


def load() -> dict[str, Any]:
    """The committed simulation."""
    return json.loads(simulation.OUT.read_text(encoding="utf-8"))


def with_test_sizes(text: str) -> str:
    """The text with its blocks of error rates made anew."""
    found = load()
    rows = [
        [
            " and ".join(map(str, entry["units"])),
            entry["spread"],
            f"{entry['ratio']}×",
            *(f"{100 * entry['rates'][name]:.1f}" for name in _NAMES),
        ]
        for entry in found["errors"]
    ]
    head = ["pretrainings", "spread", "of one to the other", *(f"{name} (%)" for name in _NAMES.values())]
    about = f"{found['replications']:,} replications, {found['samples']:,} test samples each."
    text = _BLOCK.sub(lambda block: f"{block[1]}\n{table(head, rows)}\n{about}\n\n{block[2]}", text)
    bold = [[str(one["rows"]), str(one["units"]), f"{100 * one['rate']:.1f}"] for one in found["best_left_out"]]
    shown = table(["equally good rows", "pretrainings of each", "one of them not bold (%)"], bold)
    return _BOLD.sub(lambda block: f"{block[1]}\n{shown}\n{block[2]}", text)


def figure() -> Figure:
    """Error rates by pretrainings a side, a panel for each spread; a hatched bar a test, the claimed 5 % as a line."""
    found = load()
    units = [2, 3, 5]
    with plots.styled():
        drawn = Figure(figsize=(9.2, 3.7), layout="constrained")
        panels = drawn.subplots(1, len(simulation.SPREADS), sharey=True)
    for panel, spread in zip(panels, simulation.SPREADS, strict=True):
        for index, (name, label) in enumerate(_NAMES.items()):
            equal = {
                entry["units"][0]: 100 * entry["rates"][name]
                for entry in found["errors"]
                if entry["spread"] == spread and entry["ratio"] == 1 and entry["units"][0] == entry["units"][1]
            }
            panel.plot(range(3), [equal[n] for n in units], label=label, **plots.look(index))
        panel.axhline(5, color=plots.INK, lw=1.2, linestyle=(0, (1, 2)))
        panel.set_xticks(range(3), [str(n) for n in units])
        panel.set_xlabel("pretrainings of each method")
        panel.set_title(f"spread {spread}", fontsize=10, color=plots.INK)
    highest = max(rate for entry in found["errors"] if entry["ratio"] == 1 for rate in entry["rates"].values())
    panels[0].set_ylim(0, 105 * highest)
    panels[0].set_ylabel("differences found where none is (%)")
    drawn.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8.5
    )
    return drawn
