"""Tables as Markdown that renders and LaTeX that compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from results.store import store
from results.tables import named, rendering


@pytest.mark.parametrize("name", named.definitions())
def test_markdown_renders_as_a_table_of_the_same_shape(name: str, everything: store.Store) -> None:
    # markdown-it-py is what rich reads Markdown with, so it is always there.
    page = MarkdownIt("commonmark").enable("table").render(named.render(name, everything, format="md"))
    lines = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    built = named.table(name, everything)
    assert len(lines) == 1 + len(built.rows)
    width = 1 + len(built.columns) * len(rendering.parts(built))
    assert {len(re.findall(r"<t[hd]", line)) for line in lines} == {width}
    assert page.count("<table>") == 1
    assert page.count("<strong>") == 1 + sum(cell.bold for row in built.cells for cell in row)


@pytest.mark.tex
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs Debian's package texlive-latex-recommended")
def test_latex_compiles(everything: store.Store, marked: tuple[str, store.Store], tmp_path: Path) -> None:
    """Every table by itself on a page of its own, with every mark, and each of them in the text of the PDF's source."""
    own, found = marked
    texts = [named.render(name, everything, format="latex") for name in named.definitions()]
    texts.append(named.render(own, found, format="latex"))
    packages = "\\usepackage{booktabs,graphicx}"
    for index, body in enumerate(texts):
        source = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{body}\\end{{document}}\n"
        (tmp_path / f"t{index}.tex").write_text(source, encoding="ascii")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"t{index}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
        assert done.returncode == 0, done.stdout[-2000:]
        assert (tmp_path / f"t{index}.pdf").stat().st_size > 10_000
        # The README's own table was 325 pt wider than its page.
        assert "Overfull" not in (tmp_path / f"t{index}.log").read_text(encoding="utf-8", errors="replace")
