"""A column's comparisons: how each number stands to one of them, by which test, and which are bold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pretrain.runtime.errors import InputError
from results.tables import difference, stats
from results.tables.difference import Comparison, Side
from results.tables.measuring import Evidence, refuse_mixture
from results.tables.table import Cell, Column, Versus

ALPHA = 1 - difference.LEVEL


def embolden(column: Column, cells: list[tuple[Cell, Evidence]], tuned: Sequence[str] = ()) -> str | None:
    """Mark the best cells of a column bold; the sentence that says how that was told, None when nothing was to tell.

    Each cell but the best learns how it stands to the best (`Cell.versus`). `cells`: each that holds a number fit for
    comparison, with what it is made of. `tuned`: settings of the protocol that were chosen for each row, in which rows
    may differ.
    """
    if len(cells) < 2:
        return None
    best = _best(column, cells)
    how = _compared(cells, best, tuned, "best")
    if isinstance(how, InputError):
        return f"nothing is bold. {str(how)[0].upper()}{str(how)[1:]}."
    for cell, _ in cells:
        cell.bold = cell.versus is None or cell.versus.corrected >= ALPHA
    return how


def set_against(row: str, cells: list[tuple[Cell, Evidence]], index: int, tuned: Sequence[str] = ()) -> str | None:
    """Compare every cell of a column with that of the row called `row`, the `index`-th of `cells`; bold what differs.

    Returns the sentence that says how, None when there is nothing to compare.
    """
    if len(cells) < 2:
        return None
    how = _compared(cells, index, tuned, row)
    if isinstance(how, InputError):
        return f"nothing is compared. {str(how)[0].upper()}{str(how)[1:]}."
    for cell, _ in cells:
        cell.bold = cell.versus is not None and cell.versus.corrected < ALPHA
    return how


def _compared(cells: list[tuple[Cell, Evidence]], against: int, tuned: Sequence[str], called: str) -> str | InputError:
    """Give each cell its difference to one of them; the test in words, or why there is none."""
    others = [index for index in range(len(cells)) if index != against]
    try:
        refuse_mixture([row for _, evidence in cells for row in evidence.rows], tuned)
        test, how = _test([evidence for _, evidence in cells])
        results = [test(index, against) for index in others]
    except InputError as refusal:
        return refusal
    corrected = stats.holm([result.p for result in results])
    for index, result, p in zip(others, results, corrected, strict=True):
        cells[index][0].versus = Versus(
            called, result.difference, result.low, result.high, result.p, p, result.test, len(others)
        )
    chosen = f"; each row at the {' and '.join(tuned)} chosen for it" if tuned else ""
    whom = "the best" if called == "best" else called
    return f"{len(others)} comparison{'s' if len(others) > 1 else ''} with {whom} by {how}{chosen}."


def _best(column: Column, cells: list[tuple[Cell, Evidence]]) -> int:
    means = [cell.measured.mean if cell.measured else float("-inf") for cell, _ in cells]
    return max(range(len(means)), key=lambda index: means[index] if column.higher_is_better else -means[index])


def _test(rows: Sequence[Evidence]) -> tuple[Callable[[int, int], Comparison], str]:
    """The one test by which any two of the rows are compared, and its name in words."""
    correct = [evidence.correct for evidence in rows]
    given = [side for side in correct if side is not None]
    if len(given) < len(rows):
        return _on_means(rows)
    n = difference.same_samples([unit for side in given for unit in side])
    alone = [len(side) == 1 for side in given]
    caveat = "; a row of one pretraining stands for these weights alone" if any(alone) else ""
    if all(len(side) == 1 and side[0].shape[0] == 1 for side in given):
        test = difference.mcnemar_test
        return (
            lambda one, other: test(given[one][0][0], given[other][0][0]),
            f"McNemar's exact test over {n:,} test samples{caveat}",
        )
    sides = [Side.of(side) for side in given]
    several = "" if all(alone) else " and pretrainings"
    return (
        lambda one, other: difference.compare_sides(sides[one], sides[other]),
        f"a t test over {n:,} test samples{several}{caveat}",
    )


def _on_means(rows: Sequence[Evidence]) -> tuple[Callable[[int, int], Comparison], str]:
    values = [evidence.means() for evidence in rows]
    fewest = min(map(len, values))
    if fewest < 2:
        raise InputError("the runs kept no answers for each test sample, and a t test needs two pretrainings a row")
    return (
        lambda one, other: difference.welch_test(values[one], values[other]),
        f"Welch's t test over {fewest} or more pretrainings a row, on these test images alone",
    )
