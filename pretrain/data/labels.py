"""Labels as files have them (numbers, class names, or several of either) as the arrays that tasks work with.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pretrain.data.classes import check_distinct, look_alike, number_classes
from pretrain.runtime.errors import InputError

Label = int | str
Classes = int | tuple[str, ...] | None


def numbered(
    found: Sequence[Sequence[Label]],
    *,
    several: bool,
    given: Classes,
    of_train: Callable[[], Sequence[Sequence[Label]]] | None,
    name: str,
    where: Callable[[int], str],
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 (N,), or bool (N, K) with `several`; and the K class names.

    Numbers, and texts that are all digits, are places in the list of classes; other texts are class names. Without
    names in the catalog, names are numbered in sorted order, those of train for every split.

    Args:
        found: the labels of each image.
        several: an image may have several, or none.
        given: `classes` of the catalog.
        of_train: the labels of train, asked for when another split has names; None for train itself.
        name: of the set, and `where` names an image, for messages.

    Raises:
        InputError: an image without its one label or with a label twice, numbers mixed with names, a name that train
            (or the catalog) lacks, or a number outside the classes.
    """
    for row, labels in enumerate(found):
        if len(labels) != 1 and not several:
            raise InputError(f"data set '{name}': {where(row)} has {len(labels) or 'no'} labels, expected one")
        if len(set(labels)) != len(labels):
            raise InputError(
                f"data set '{name}': {where(row)} has the label {_twice(labels)!r} twice; labels are numbers or names "
                "of classes, and a column of 0 and 1 for each class needs a header with their names"
            )
    by_name = _by_name(found, given, name, where)
    if by_name:
        flat = {str(label) for labels in found for label in labels}
        train = flat if of_train is None else {str(label) for labels in of_train() for label in labels}
        classes = number_classes(sorted(train), given, name)
        strange = sorted(flat - set(classes))
        if strange:
            raise InputError(
                f"data set '{name}': {len(strange)} classes are not among those of train: {', '.join(strange[:5])}"
                f"{look_alike(strange, classes)}"
            )
        number = {label: place for place, label in enumerate(classes)}
        places = [[number[str(label)] for label in labels] for labels in found]
    else:
        places = [[int(label) for label in labels] for labels in found]
        highest = max((place for labels in places for place in labels), default=-1)
        lowest = min((place for labels in places for place in labels), default=0)
        if given is None and several and of_train is not None:  # a rare class may be missing here
            highest_of_train = max((int(label) for labels in of_train() for label in labels), default=-1)
            classes = _numbers(max(highest, highest_of_train) + 1)
        else:
            classes = given if isinstance(given, tuple) else _numbers(given or highest + 1)
        if isinstance(given, tuple):
            check_distinct(given, f"data set '{name}': `classes` of the catalog")
        if lowest < 0 or highest >= len(classes):
            raise InputError(
                f"data set '{name}': labels run from {lowest} to {highest}, expected 0 to {len(classes) - 1}"
            )
    if not several:
        return np.array([labels[0] for labels in places], dtype=np.int64), classes
    array = np.zeros((len(places), len(classes)), dtype=bool)
    for row, labels in enumerate(places):
        array[row, labels] = True
    return array, classes


def _by_name(found: Sequence[Sequence[Label]], given: Classes, name: str, where: Callable[[int], str]) -> bool:
    texts = {label for labels in found for label in labels if isinstance(label, str)}
    if texts and isinstance(given, tuple) and texts <= set(given):
        return True
    names = {label for label in texts if not _is_number(label)}
    if not names:
        return False
    if len(names) < len(texts) or any(isinstance(label, int) for labels in found for label in labels):
        odd, a_name = next((row, label) for row, labels in enumerate(found) for label in labels if label in names)
        raise InputError(
            f"data set '{name}': {where(odd)} has the label '{a_name}', others have numbers; expected names or numbers "
            "in all"
        )
    return True


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _twice(labels: Sequence[Label]) -> Label:
    return next(label for label in labels if list(labels).count(label) > 1)
