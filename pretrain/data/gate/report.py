"""What a check has found, and the table that says so in ten seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

LISTED = 10  # problems of one kind that are written out; the rest is a number


@dataclass
class SplitReport:
    """What one split holds.

    Attributes:
        split: of the catalog.
        images, classes: how many.
        opened: how many of its images were decoded.
        facts: the lines of the table, label -> text, in their order.
    """

    split: str
    images: int
    classes: int
    opened: int = 0
    facts: dict[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """What a check found.

    Attributes:
        problems: what is missing or damaged, and what evaluation refuses.
        warnings: what is odd and yet measured, test images that stand in train above all.
        where: where people get the set, if it is known.
    """

    name: str
    title: str = ""
    splits: list[SplitReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    where: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is missing or damaged, and no task refuses the set."""
        return not self.problems

    def add(self, split: str, kind: str, found: list[str], *, warn: bool = False) -> None:
        """Some problems (or warnings) of one kind: the first ones as they are, the rest as a number."""
        told = [f"{split}: {kind}: {item}" if kind else f"{split}: {item}" for item in found[:LISTED]]
        if len(found) > LISTED:
            told.append(f"{split}: {kind or 'of this kind'}: {len(found) - LISTED} more")
        (self.warnings if warn else self.problems).extend(told)

    def __str__(self) -> str:
        state = "ok" if self.ok else "not whole"
        lines = [f"{self.name}{f' ({self.title})' if self.title else ''}: {state}", *self.table()]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [f"  problem: {problem}" for problem in self.problems]
        if self.problems and self.where:
            lines.append(f"  get it from {self.where}")
        return "\n".join(lines)

    def table(self) -> list[str]:
        """A column a split, a line a fact. Long texts stand in lines of their own below the table's."""
        labels = list(dict.fromkeys(label for split in self.splits for label in split.facts))
        if not labels:
            return []
        first = max(len(label) for label in labels)
        lines = [["", *(split.split for split in self.splits)]]
        lines += [[label, *(split.facts.get(label, "-") for split in self.splits)] for label in labels]
        widths = [max(len(line[column]) for line in lines) for column in range(1, len(self.splits) + 1)]
        if first + sum(widths) + 2 * len(widths) <= 118:
            return [
                "  "
                + "  ".join(
                    [line[0].ljust(first), *(c.ljust(w) for c, w in zip(line[1:], widths, strict=True))]
                ).rstrip()
                for line in lines
            ]
        told = []
        for split in self.splits:
            told.append(f"  {split.split}")
            told += [f"    {label.ljust(first)}  {text}" for label, text in split.facts.items()]
        return told
