"""What a stranger's file may ask for: bounds on numbers, texts and work, and its words made safe to show.

An honest checkpoint stays far below each bound; the reasons stand beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.runtime.errors import InputError

# The largest released vision models have a few thousand tensors, training files with their optimizers three times that.
TENSORS = 100_000
# Tensor names of real networks are below 150 characters, wrappers included.
NAME_CHARACTERS = 400
# MoCo-like files hold two or three encoders, files of ablations perhaps ten.
ENCODERS = 48
# Opcodes of one pickle: a network of 1000 tensors takes about 60,000, its optimizer's state twice that.
OPERATIONS = 5_000_000
# Bytes of one integer: numpy's random states have 16.
INTEGER_BYTES = 1024
# Parts of a tuple that is a key: every use of it costs a hash of them all.
KEY_PARTS = 16
# A message is one sentence: names beyond these are counted; `inspect --json` lists them.
NAMES_TOLD = 60
MESSAGE_CHARACTERS = 6000

log = logging.getLogger("fastmoco")


def readable(text: str, limit: int = NAME_CHARACTERS) -> str:
    """The text with everything escaped that a terminal would obey or could not show, cut to `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit - 20]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def shown(value: Any, limit: int = 80) -> str:
    """A value of the file's in a message: short, printable, and never walked deeper than one level."""
    if isinstance(value, str | bytes):
        return readable(repr(value[:limit]) + ("..." if len(value) > limit else ""), 6 * limit)
    if isinstance(value, list | tuple):
        parts = [shown(part, 20) if _scalar(part) else "..." for part in value[:8]] + ["..."] * (len(value) > 8)
        return f"[{', '.join(parts)}]" if isinstance(value, list) else f"({', '.join(parts)})"
    return readable(repr(value), limit) if _scalar(value) else f"a {type(value).__name__}"


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | float | str | bytes) or (type(value) is int and abs(value) < 2**64)


def listed(names: Iterable[str], joint: str = ", ") -> str:
    """Names in a message: the first `NAMES_TOLD`, and how many more there are."""
    names = list(names)
    more = f"{joint}and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return joint.join(names[:NAMES_TOLD]) + more


@contextmanager
def one_sentence(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside while a stranger's file is read becomes one bounded, printable sentence.

    Raises:
        InputError: in place of any error but our own broken invariants (`assert`).
    """
    try:
        yield
    except InputError as error:
        raise InputError(_bounded(str(error))) from None
    except AssertionError:
        raise
    except OSError as error:
        raise InputError(_bounded(f"{path} cannot be read: {error.strerror or type(error).__name__}")) from None
    except Exception as error:
        log.debug("what was wrong with %s", readable(str(path)), exc_info=error)
        raise InputError(
            _bounded(f"{path} is refused: it is damaged, or no checkpoint ({type(error).__name__} while it was read)")
        ) from None


def _bounded(message: str) -> str:
    return readable(message, MESSAGE_CHARACTERS)
