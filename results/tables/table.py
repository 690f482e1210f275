"""A table before it is written down: rows, columns and cells, with everything a reader may ask of a cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Mark = Literal["failed", "unfinished", "off_protocol", "best", "held_out", "refused", "stale", "near", "other"]

# What each mark means, in the order of the legend.
MEANINGS: dict[Mark, str] = {
    "failed": "a run failed",
    "unfinished": "a run has not ended",
    "off_protocol": "measured under another protocol than the column's",
    "best": "the best epoch on the test set: optimistic, compared with nothing",
    "held_out": "chosen on a part of train, in a column of last epochs",
    "refused": "no mean: the runs differ in protocol, data or selection",
    "stale": "measured by settings that today's code resolves otherwise: running it again gives a new run",
    "near": "published under a protocol that is only near ours, or does not say enough to tell",
    "other": "published under a protocol that is none of ours",
}


@dataclass(frozen=True)
class Published:
    """A number from elsewhere, with its source.

    Attributes:
        match: "same", "near" or "none": how its protocol compares with the one of ours that comes nearest.
        note: the number of the source in the table's notes.
    """

    value: float
    std: float | None
    n_trials: int | None
    source: str
    location: str
    protocol: str
    match: str
    note: int


@dataclass(frozen=True)
class Measured:
    """Our number: the mean over pretrainings of the mean over evaluation seeds.

    Attributes:
        mean, std: std is the sample standard deviation over pretrainings or, when there is one only, over its
            evaluation seeds; None when there is one run.
        pretrainings, evaluations: how many weights, and how many runs in all.
        low, high: 95 % interval over test samples, None when the runs carry none.
        run_ids: behind the number, sorted.
        selection, protocol, data: what all these runs share.
        alike: each pretraining's evaluations, where it has several, gave one and the same number (as nearest neighbours
            do with any seed), so that they count as one.
    """

    mean: float
    std: float | None
    pretrainings: int
    evaluations: int
    low: float | None
    high: float | None
    run_ids: tuple[str, ...]
    selection: str
    protocol: str
    data: str
    alike: bool = False

    @property
    def n(self) -> str:
        """How many numbers are behind the mean: "3", "3×2" (pretrainings × evaluation seeds) or "3; 5 runs"."""
        if self.evaluations == self.pretrainings or self.alike:
            return str(self.pretrainings)
        each, rest = divmod(self.evaluations, self.pretrainings)
        return f"{self.pretrainings}×{each}" if not rest else f"{self.pretrainings}; {self.evaluations} runs"


@dataclass(frozen=True)
class Versus:
    """How a number stands to that of another row of its column.

    Attributes:
        row: the other row's label, or "best" for the best of the column.
        difference, low, high: this minus that, in the column's unit, with its 95 % interval, not corrected.
        p, corrected: two-sided; corrected by Holm over the column's `comparisons`.
        test: its name.
    """

    row: str
    difference: float
    low: float
    high: float
    p: float
    corrected: float
    test: str
    comparisons: int


@dataclass
class Cell:
    """One cell. `why` says in a sentence what a mark cannot: the failure's message, the reason of a refusal."""

    published: Published | None = None
    measured: Measured | None = None
    marks: list[Mark] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    run_ids: tuple[str, ...] = ()
    bold: bool = False
    versus: Versus | None = None

    @property
    def published_marks(self) -> list[Mark]:
        """The marks that stand at the published number."""
        if self.published is None or self.published.match == "same":
            return []
        return ["near" if self.published.match == "near" else "other"]

    @property
    def difference(self) -> float | None:
        """Measured minus published, when both are there."""
        if self.published is None or self.measured is None or "best" in self.marks:
            return None
        return self.measured.mean - self.published.value


@dataclass(frozen=True)
class Column:
    """A column: its heading's lines, the unit of its numbers and how they are written."""

    label: tuple[str, ...]
    unit: str
    digits: int
    higher_is_better: bool

    @property
    def name(self) -> str:
        """The heading in one line, by which a cell is asked for."""
        return " ".join(self.label)


@dataclass
class Table:
    """Rows × columns of cells. `cells[i][j]` stands in row i and column j.

    `against`: the row to which the others are shown as differences; None shows every number itself.
    """

    name: str
    title: str
    caption: str
    rows: list[str]
    columns: list[Column]
    cells: list[list[Cell]]
    notes: list[str]
    sources: list[str]
    against: str | None = None

    @property
    def has_published(self) -> bool:
        """Whether any cell holds a number from elsewhere."""
        return any(cell.published for row in self.cells for cell in row)

    @property
    def has_measured(self) -> bool:
        """Whether any cell holds a number or a run of ours."""
        return any(cell.measured or cell.marks for row in self.cells for cell in row)

    @property
    def marks(self) -> list[Mark]:
        """The marks in use, in the legend's order."""
        used = {mark for row in self.cells for cell in row for mark in (*cell.marks, *cell.published_marks)}
        return [mark for mark in MEANINGS if mark in used]
