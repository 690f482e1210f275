"""Where the paths of a catalog lie: what is relative starts at the catalog's file, patterns become files."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.runtime.errors import InputError

_GLOB = "*?["


@dataclass(frozen=True)
class Places:
    """The folder that a catalog's relative paths start from; None is the folder where the process stands."""

    base: Path | None = None

    def resolve(self, relative: str | Path) -> Path:
        """An absolute path: `~` is expanded, and what is relative is relative to the base."""
        return (self.base or Path.cwd()) / Path(relative).expanduser()

    def beginning(self, pattern: str) -> Path:
        """The path itself, or the folder that a pattern starts in: the parts before the first sign of one."""
        plain = itertools.takewhile(lambda part: not set(_GLOB + "{") & set(part), Path(pattern).parts)
        return self.resolve(Path(*plain))

    def files(self, patterns: Sequence[str], name: str) -> list[Path]:
        """The files that `patterns` mean: `{000..146}` and `{a,b}` are written out, then `*` and `?` are looked up.

        Args:
            patterns: paths, relative or absolute.
            name: of the data set, for the message.

        Raises:
            InputError: a pattern that matches no file.
        """
        paths: list[Path] = []
        for pattern in patterns:
            for plain in _braces(str(self.resolve(pattern))):
                if any(sign in plain for sign in _GLOB):
                    found = sorted(glob.glob(plain))  # noqa: PTH207 - the pattern is absolute
                else:
                    found = [plain] if Path(plain).is_file() else []
                if not found:
                    raise InputError(f"data set '{name}': no file at {plain}")
                paths += [Path(path) for path in found]
        return paths


def _braces(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if numbers:
        width = len(numbers[1])
        choices = [str(number).zfill(width) for number in range(int(numbers[1]), int(numbers[2]) + 1)]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [filled for choice in choices for filled in _braces(before + choice + after)]
