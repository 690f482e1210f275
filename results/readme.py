"""Tables of measured rows inside Markdown files, made by the code that makes all tables: `python -m results.readme`.

A block starts with `<!-- table NAME from FILE.jsonl -->`, FILE under results/measured/, and ends with `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pretrain.files import write_text
from results.store import load
from results.tables import render

MEASURED = Path(__file__).with_name("measured")
_BLOCK = re.compile(r"(<!-- table (?P<name>\S+) from (?P<file>[\w.-]+\.jsonl) -->\n).*?(<!-- end -->)", re.DOTALL)


def refreshed(text: str) -> str:
    """The text with every block's table made anew from the committed rows. Raises InputError for an unknown table."""

    def table(block: re.Match[str]) -> str:
        rows = load([MEASURED / block["file"]])
        return f"{block[1]}\n{render(block['name'], rows, format='md').strip()}\n\n{block[4]}"

    return _BLOCK.sub(table, text)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["README.md"]:
        path = Path(name)
        write_text(path, refreshed(path.read_text(encoding="utf-8")))
