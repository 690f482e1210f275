"""Tables of measured rows inside Markdown files, made by the code that makes all tables: `python -m results.readme`.

`python -m results.readme --stale` lists the committed rows that today's code would measure otherwise.

A block starts with `<!-- table NAME from FILE.jsonl -->` (or `from FILE.jsonl and FILE.jsonl`; `against ROW` after it
shows differences to that row), files under results/measured/, and ends with `<!-- end -->`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pretrain.runtime.files import write_text
from results.store.store import load
from results.tables.named import render

MEASURED = Path(__file__).with_name("measured")
_FILE = r"[\w.-]+\.jsonl"
_BLOCK = re.compile(
    rf"(?P<head><!-- table (?P<name>\S+) from (?P<files>{_FILE}(?: and {_FILE})*)(?: against (?P<against>.+?))? -->\n)"
    r".*?(?P<end><!-- end -->)",
    re.DOTALL,
)


def refreshed(text: str) -> str:
    """The text with every block's table made anew from the committed rows. Raises InputError for an unknown table."""

    def table(block: re.Match[str]) -> str:
        rows = load([MEASURED / file for file in block["files"].split(" and ")])
        text = render(block["name"], rows, format="md", against=block["against"])
        return f"{block['head']}\n{text.strip()}\n\n{block['end']}"

    return _BLOCK.sub(table, text)


if __name__ == "__main__":
    if "--stale" in sys.argv[1:]:
        # What today's code would do is known in the rooms above: their command is asked, nothing of theirs imported.
        roots = [word for file in sorted(MEASURED.glob("*.jsonl")) for word in ("--root", str(file))]
        command = [sys.executable, "-m", "benchmarks.cli", "table", "--stale", *roots]
        sys.exit(subprocess.run(command, check=False).returncode)
    for name in sys.argv[1:] or ["README.md"]:
        path = Path(name)
        write_text(path, refreshed(path.read_text(encoding="utf-8")))
