"""Class names: those of the catalog, of the files, and of the other splits must agree, or are matched by name.

A label is a number, and a number means what the list of names says at that place. Two lists that hold the same names in
another order are matched by name; any other two are refused with both orders.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pretrain.runtime.errors import InputError

_SHOWN = 12  # names of a list that a message shows


def number_classes(found: Sequence[str], given: int | tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """The class names `found` in a set's files, checked against what its entry says of them.

    Raises:
        InputError: the numbers differ, a name stands twice, or the entry names classes that are not there.
    """
    if isinstance(given, tuple):
        check_distinct(given, f"data set '{name}': `classes` of the catalog")
    if given is None or isinstance(given, int):
        check_distinct(found, f"data set '{name}': its files")
        if given is not None and given != len(found):
            raise InputError(f"data set '{name}': the catalog says {given} classes, its files have {len(found)}")
        return tuple(found)
    if set(found) - set(given):
        extra = ", ".join(sorted(set(found) - set(given))[:5])
        alike = look_alike(found, given)
        raise InputError(f"data set '{name}': its files have classes that the catalog does not name: {extra}{alike}")
    return given


def matched(labels: np.ndarray, names: Sequence[str], wanted: Sequence[str], where: str, whose: str) -> np.ndarray:
    """`labels` that count in `names`, as they count in `wanted`.

    Args:
        labels: int64 (N,).
        names: the order that the labels were written by.
        wanted: the order they are to have.
        where: whose labels these are, and `whose` the wanted order is, for the message.

    Raises:
        InputError: the two lists do not hold the same names; both are shown.
    """
    names, wanted = list(names), list(wanted)
    if names == wanted:
        return labels
    check_distinct(names, where)
    check_distinct(wanted, whose)
    if set(names) != set(wanted):
        raise InputError(
            f"{where} has the classes {_shown(names)}, {whose} has {_shown(wanted)}: expected the same names"
            f"{look_alike(names, wanted)}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise InputError(f"{where}: labels run from {labels.min()} to {labels.max()}, expected 0 to {len(names) - 1}")
    place = {label: number for number, label in enumerate(wanted)}
    return np.array([place[label] for label in names], dtype=np.int64)[labels]


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raises InputError: a class name stands twice, or two differ in their Unicode form only."""
    counts = Counter(names)
    twice = next((label for label, count in counts.items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{where} name the class '{twice}' twice")
    forms: dict[str, str] = {}
    for label in names:
        other = forms.setdefault(unicodedata.normalize("NFC", label), label)
        if other != label:
            raise InputError(
                f"{where} hold two classes that look alike: '{label}' is written composed (NFC) and decomposed (NFD); "
                "rename one"
            )


def look_alike(found: Sequence[str], given: Sequence[str]) -> str:
    """Words for why two lists may look the same and are not, where they do; else nothing."""
    composed = {unicodedata.normalize("NFC", label) for label in given}
    if any(unicodedata.normalize("NFC", label) in composed for label in set(found) - set(given)):
        return "; they look alike but are written composed (NFC) and decomposed (NFD)"
    return ""


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")
