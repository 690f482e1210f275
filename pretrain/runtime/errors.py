"""The user's mistakes, as errors: one sentence that says what was given, what was expected and what exists.

Every room may import this module; it imports the standard library alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What the user gave is wrong; the message is the whole sentence the command line prints before exit code 2."""


class RunFailedError(RuntimeError):
    """The work itself failed for a reason a sentence can tell (a full disk, a loss that is not finite): exit code 1."""


class Interrupted(BaseException):
    """A signal asked the run to stop and its state is saved: the same command resumes. Exit code 128 + signal."""

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(f"stopped by signal {signum}; {where}")
        self.signum = signum


def unknown(kind: str, given: object, available: Iterable[str]) -> InputError:
    """The error for a name that does not exist: names it, the closest that does, and all that exist.

    >>> str(unknown("recipe", "r5_e100", ["r50_e100", "r50_e200"]))
    "unknown recipe 'r5_e100' (did you mean 'r50_e100'?); available: r50_e100, r50_e200"
    """
    names = sorted(available)
    close = difflib.get_close_matches(str(given), names, n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return InputError(f"unknown {kind} '{given}'{hint}; available: {', '.join(names) or 'none'}")
