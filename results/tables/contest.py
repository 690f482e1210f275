"""Bold in a column: the best number and those not significantly worse, by which test and over how many samples."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.runtime.errors import InputError
from results.tables import stats
from results.tables.measuring import Evidence, refuse_mixture
from results.tables.table import Cell, Column

ALPHA = 0.05


def embolden(column: Column, cells: list[tuple[Cell, Evidence]], tuned: Sequence[str] = ()) -> str | None:
    """Mark the best cells of a column bold; the sentence that says how that was told, None when nothing was to tell.

    `cells`: each cell that holds a number fit for comparison, with what it is made of. `tuned`: settings of the
    protocol that were chosen for each row, in which rows may differ.
    """
    if len(cells) < 2:
        return None
    try:
        refuse_mixture([row for _, evidence in cells for row in evidence.rows], tuned)
        tests, how = _against_best(column, cells)
    except InputError as refusal:
        return f"nothing is bold. {str(refusal)[0].upper()}{str(refusal)[1:]}."
    corrected = stats.holm([p for _, p in tests])
    best = _best(column, cells)
    cells[best][0].bold = True
    for (index, _), p in zip(tests, corrected, strict=True):
        cells[index][0].bold = p >= ALPHA
    chosen = f"; each row at the {' and '.join(tuned)} chosen for it" if tuned else ""
    return f"{len(tests)} comparison{'s' if len(tests) > 1 else ''} with the best by {how}{chosen}."


def _best(column: Column, cells: list[tuple[Cell, Evidence]]) -> int:
    means = [cell.measured.mean if cell.measured else float("-inf") for cell, _ in cells]
    return max(range(len(means)), key=lambda index: means[index] if column.higher_is_better else -means[index])


def _against_best(column: Column, cells: list[tuple[Cell, Evidence]]) -> tuple[list[tuple[int, float]], str]:
    """(index, p) of every other cell against the best, all by one test, and the test in words."""
    best = _best(column, cells)
    others = [index for index in range(len(cells)) if index != best]
    correct = [evidence.correct for _, evidence in cells]
    given = [side for side in correct if side is not None]
    if len(given) == len(cells):
        if all(len(side) == 1 and side[0].shape[0] == 1 for side in given):
            results = [stats.mcnemar_test(given[best][0][0], given[index][0][0]) for index in others]
        else:
            results = stats.paired_bootstrap(given[best], [given[index] for index in others])
        several = "" if all(len(side) == 1 for side in given) else " and pretrainings"
        alone = any(len(side) == 1 for side in given)
        caveat = "; a row of one pretraining stands for these weights alone" if alone else ""
        return (
            [(index, result.p) for index, result in zip(others, results, strict=True)],
            f"{results[0].test} over {results[0].n:,} test samples{several}{caveat}",
        )
    values = [evidence.means() for _, evidence in cells]
    if min(map(len, values)) < 2:
        raise InputError("the runs kept no answers for each test sample, and a t test needs two pretrainings a row")
    results = [stats.welch_test(values[best], values[index]) for index in others]
    fewest = min(map(len, values))
    return (
        [(index, result.p) for index, result in zip(others, results, strict=True)],
        f"{results[0].test} over {fewest} or more pretrainings a row",
    )
