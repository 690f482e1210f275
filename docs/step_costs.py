"""What a step of each recipe takes, as `benchmarks.perf.variants --out` wrote it: tables of pages, scales of plots."""

from __future__ import annotations

import json
import re
from typing import Any

from markdown_parts import cell, table

from results import readme

_BLOCK = re.compile(r"(<!-- costs from (?P<file>[\w.-]+\.json) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """A file of results/measured/."""
    return json.loads((readme.MEASURED / name).read_text(encoding="utf-8"))


def pace(name: str) -> dict[str, float]:
    """Label -> what its step takes, in steps of the one it was compared with."""
    return {label: step["time_ratio"] for label, step in load(name)["steps"].items()}


def with_costs(text: str) -> str:
    """The text with the table of each `<!-- costs from FILE.json -->` block made anew."""

    def costs(block: re.Match[str]) -> str:
        found = load(block["file"])
        against = f"`{found['against']}`"
        rows = []
        for label, step in found["steps"].items():
            low, high = step["quartiles"]
            time = f"{step['time_ratio']:.2f} ({low:.2f} to {high:.2f})"
            rows.append([f"`{label}`", f"{step['gflop']:.1f}", f"{step['flops_ratio']:.2f}", f"{step['ms']:.0f}", time])
        head = ["recipe", "GFLOP", f"of {against}", "ms", f"of {against} (quartiles)"]
        about = cell("{backbone} at {size} px, batch {batch}, {precision}; {where}, torch {torch}".format(**found))
        return f"{block[1]}\n{table(head, rows)}\nA training step: {about}.\n\n{block[3]}"

    return _BLOCK.sub(costs, text)
