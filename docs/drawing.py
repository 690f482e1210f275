"""The drawing of divide, encode, combine: an SVG that follows the reader's light or dark scheme."""

from __future__ import annotations

from itertools import combinations

PATCHES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito (2008)
_DARK_INK, _LIGHT_INK = "#191c20", "#e6e8ec"
# The site's own switch may differ from the reader's system: its schemes come last and win.
_STYLE = f"""
  .drawing {{ --ink: {_DARK_INK}; }}
  @media (prefers-color-scheme: dark) {{ .drawing {{ --ink: {_LIGHT_INK}; }} }}
  [data-md-color-scheme=default] .drawing {{ --ink: {_DARK_INK}; }}
  [data-md-color-scheme=slate] .drawing {{ --ink: {_LIGHT_INK}; }}
  .drawing text {{ font: 15px system-ui, sans-serif; fill: var(--ink); }}
  .drawing .head {{ font-weight: 600; }}
  .drawing .line, .drawing .box {{ stroke: var(--ink); stroke-width: 1.5; fill: none; }}
  .drawing .tip {{ fill: var(--ink); }}
  .drawing .other {{ fill: #9aa0a8; }}
"""


def method() -> str:
    """Two views of one image: one in four patches, encoded and averaged in six pairs; the other whole, as the key."""
    parts: list[str] = []
    for x, words in ((62, "one view"), (196, "divide"), (330, "encode"), (490, "combine"), (760, "compare")):
        parts.append(_text(x, 24, words, "head"))
    _view(parts, 20, 70, gap=0)
    _arrow(parts, 112, 112, 146, 112)
    _view(parts, 150, 66, gap=8)
    for row in range(4):
        y = 62 + row * 30
        _arrow(parts, 250, y + 8, 278, y + 8)
        parts.append(f'<rect x="376" y="{y}" width="30" height="16" rx="3" fill="{PATCHES[row]}"/>')
        _line(parts, 370, y + 8, 376, y + 8)
    _box(parts, 280, 52, 90, 122, ("backbone,", "four times"))
    for index, (first, second) in enumerate(combinations(range(4), 2)):
        y = 48 + index * 22
        parts.append(f'<rect x="476" y="{y}" width="15" height="14" fill="{PATCHES[first]}"/>')
        parts.append(f'<rect x="491" y="{y}" width="15" height="14" fill="{PATCHES[second]}"/>')
        _arrow(parts, 508, y + 7, 540, y + 7)
        _arrow(parts, 626, y + 7, 690, y + 7)
    _arrow(parts, 412, 112, 470, 112)
    _box(parts, 542, 44, 84, 136, ("projector,", "predictor"))
    parts.append(_text(478, 200, "means of all 6 pairs"))
    parts.append(_text(652, 200, "6 queries"))

    parts.append(_text(20, 262, "the other view", "head", "start"))
    parts.append('<rect x="20" y="276" width="84" height="84" rx="4" fill="#8a6a00"/>')
    _arrow(parts, 112, 318, 288, 318)
    _box(parts, 290, 286, 200, 64, ("momentum encoder:", "backbone and projector"))
    _arrow(parts, 490, 318, 690, 318)
    parts.append(_text(594, 308, "1 key, no gradient"))
    parts.append('<rect x="694" y="310" width="30" height="16" rx="3" fill="#8a6a00"/>')
    parts += [f'<rect x="694" y="{y}" width="30" height="14" rx="3" class="other"/>' for y in (336, 356, 376)]
    parts.append(_text(732, 366, "keys of other images", "", "start"))
    parts.append(_text(706, 250, "each query finds its key", "", "start"))
    parts.append(_text(706, 270, "among all (InfoNCE)", "", "start"))
    _line(parts, 694, 52, 694, 168)
    _arrow(parts, 694, 168, 694, 304)
    body = "\n".join(parts)
    title = "Divide, encode, combine: six queries from the patches of one view find the key of the other, whole view"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" viewBox="0 0 900 410" role="img"'
        f' aria-label="{title}">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n{body}\n</svg>\n"
    )


def _view(parts: list[str], x: int, y: int, *, gap: int) -> None:
    for index, colour in enumerate(PATCHES):
        left, top = x + (index % 2) * (42 + gap), y + (index // 2) * (42 + gap)
        parts.append(f'<rect x="{left}" y="{top}" width="42" height="42" rx="3" fill="{colour}"/>')


def _box(parts: list[str], x: int, y: int, width: int, height: int, words: tuple[str, ...]) -> None:
    parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" class="box"/>')
    first = y + height / 2 + 5 - 9 * (len(words) - 1)
    parts.extend(_text(x + width / 2, first + 18 * index, line) for index, line in enumerate(words))


def _text(x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{f" class={style!r}" if style else ""}>{words}</text>'


def _line(parts: list[str], x1: float, y1: float, x2: float, y2: float) -> None:
    parts.append(f'<path d="M{x1} {y1}L{x2} {y2}" class="line"/>')


def _arrow(parts: list[str], x1: float, y1: float, x2: float, y2: float) -> None:
    _line(parts, x1, y1, x2, y2)
    if y1 == y2:
        parts.append(f'<path d="M{x2 + 1} {y2}l-8 -4v8z" class="tip"/>')
    else:
        parts.append(f'<path d="M{x2} {y2 + 1}l-4 -8h8z" class="tip"/>')
