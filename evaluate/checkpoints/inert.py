"""What stands in for everything that a pickle names or calls: nothing of it is imported or run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from evaluate.checkpoints.limits import readable

# A call of what a call returned, and so on: no honest file does it more than twice.
_DEPTH = 8


@dataclass(frozen=True)
class Global:
    """A name of the file's choice, never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What the file would have made by calling `what`: inert, with everything it was given."""

    what: Any
    args: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def type_name(self) -> str:
        """The dotted name of what would have been called, printable."""
        made_by = self.what
        for _ in range(_DEPTH):
            if not isinstance(made_by, Record):
                break
            made_by = made_by.what
        return readable(str(made_by)) if isinstance(made_by, Global) else type(made_by).__name__

    def __repr__(self) -> str:
        return f"<{self.type_name}, not run>"
