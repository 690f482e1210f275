"""What evaluation refuses of a set of labelled images. Tasks call this before their first image, `data check` always.

Shapes: N samples, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np

from pretrain.data.images import ImageSet
from pretrain.data.objects import ObjectSet
from pretrain.data.readers.masks import MaskSet
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")

Opened = ImageSet | ObjectSet | MaskSet


def check_splits(train: ImageSet, test: ImageSet) -> None:
    """Whole splits, as opened: labels within range, the same classes, each of them in both, and files that are there.

    What is no reason to refuse is said in the log: files left out, and test images that stand in train as well.

    Raises:
        InputError: whatever of that does not hold.
    """
    for images in (train, test):
        check_labels(images)
    check_same_classes(train, test)
    check_present(train, test)
    for images in (train, test):
        check_files(images)
        for note in images.notes:
            log.warning("%s/%s: %s", images.name, images.split, note)
    tell_shared(train, test)


def tell_shared(train: ImageSet, test: ImageSet) -> None:
    """A warning in the log: test images that stand in train as well."""
    shared = in_both(train, test)
    if len(shared):
        log.warning(
            "%s: %d of %d images of %s are in %s as well, the same bytes, such as %s",
            *(test.name, len(shared), len(test), test.split, train.split, test.where(int(shared[0]))),
        )


def refused(train: Opened, test: Opened, *, measured: bool = True) -> list[str]:
    """What any task refuses of two whole splits of one kind, sentence by sentence; damaged images stand elsewhere.

    On a split that is not `measured` (val beside a test split) settings are chosen: a class may be missing there.
    """
    checks: list[Callable[[], None]] = []
    if isinstance(train, ImageSet) and isinstance(test, ImageSet):
        checks = [partial(check_labels, train), partial(check_labels, test), partial(check_same_classes, train, test)]
        checks += [partial(check_present, train, test)] * measured
    elif isinstance(train, ObjectSet) and isinstance(test, ObjectSet):
        checks = [partial(check_objects, train, test)]
    elif isinstance(train, MaskSet) and isinstance(test, MaskSet):
        checks = [partial(check_mask_classes, train, test)]
    told = []
    for check in checks:
        try:
            check()
        except InputError as error:
            told.append(str(error))
            break  # what follows takes for granted what is checked before
    return told


def check_objects(train: ObjectSet, test: ObjectSet) -> None:
    """Raises InputError: other classes, no object to learn from, or none to find."""
    if train.classes != test.classes:
        raise InputError(
            f"data set '{train.name}': train and {test.split} do not have the same classes: "
            f"{', '.join(train.classes[:8])} against {', '.join(test.classes[:8])}"
        )
    demand_objects(train, test)


def demand_objects(train: ObjectSet, test: ObjectSet) -> None:
    """Raises InputError: nothing to learn from in train, or nothing that counts in test. Says which classes lack train.

    An object counts when it is neither of a crowd nor difficult.
    """
    if not train.taught().any():
        raise InputError(
            f"data set '{train.name}', split 'train': no image holds an object to learn from{_what(train)}"
        )
    taught = {thing.category for image in train.images for thing in image.objects if not thing.crowd}
    things = (thing for image in test.images for thing in image.objects)
    counted = {thing.category for thing in things if not (thing.crowd or thing.difficult)}
    if not counted:
        raise InputError(f"data set '{test.name}', split 'test': no image holds an object that counts{_what(test)}")
    untaught = [test.classes[category] for category in sorted(counted - taught)]
    if untaught:
        log.warning(
            "data set '%s': train has no object of %d of the classes that test has: %s; their AP will be near 0",
            *(train.name, len(untaught), ", ".join(untaught[:10])),
        )


def _what(objects: ObjectSet) -> str:
    things = [thing for image in objects.images for thing in image.objects]
    if not things:
        return ": its images have no objects at all"
    crowds = sum(thing.crowd for thing in things)
    difficult = sum(thing.difficult and not thing.crowd for thing in things)
    return f": of its {len(things)} objects {crowds} are crowds and {difficult} are difficult"


def check_mask_classes(train: MaskSet, test: MaskSet) -> None:
    """Raises InputError: the two splits have other classes."""
    if train.classes != test.classes:
        raise InputError(f"data set '{train.name}': train and {test.split} do not have the same classes")


def check_labels(images: ImageSet) -> None:
    """Raises InputError: no image, a label outside the classes, or fewer than two classes among the labels."""
    where = f"{images.name}, split {images.split}"
    if len(images) == 0:
        raise InputError(f"{where}: the split is empty, expected at least one image")
    K = len(images.classes)
    if not K:
        raise InputError(f"{where}: the images have no labels: they can be pretrained on, not evaluated")
    if images.multi_label:
        if images.labels.shape[1] != K:
            raise InputError(f"{where}: labels have {images.labels.shape[1]} columns, expected one per class: {K}")
        if images.split == "train" and not images.labels.any(axis=0).all():
            missing = images.classes[int(np.flatnonzero(~images.labels.any(axis=0))[0])]
            raise InputError(f"{where}: no image has class '{missing}', expected at least one of each")
        return
    low, high = int(images.labels.min()), int(images.labels.max())
    if low < 0 or high >= K:
        wrong = low if low < 0 else high
        row = int(np.flatnonzero(images.labels == wrong)[0])
        raise InputError(f"{where}: label {wrong} of {images.where(row)} is outside 0..{K - 1} ({K} classes)")
    if K < 2 or (images.split == "train" and low == high):
        raise InputError(f"{where}: all images are of one class ('{images.classes[low]}'), expected at least two")


def check_same_classes(train: ImageSet, test: ImageSet) -> None:
    """Raises InputError: the two splits do not number the same classes."""
    if train.classes == test.classes:
        return
    if set(train.classes) == set(test.classes):
        orders = (f"{images.split} has {', '.join(images.classes[:8])}" for images in (train, test))
        raise InputError(f"{train.name}: the splits number the same classes in other orders: {'; '.join(orders)}")
    odd = sorted(set(train.classes) ^ set(test.classes))
    raise InputError(
        f"{train.name}: split {test.split} has {len(test.classes)} classes, split {train.split} has "
        f"{len(train.classes)}, expected the same list (they differ in {', '.join(odd[:5])})"
    )


def check_present(train: ImageSet, test: ImageSet) -> None:
    """Raises InputError: one split shows a class of which the other has no image; all such classes are counted.

    Sets of several labels an image are left to their metric, which says what it does about such classes.
    """
    if train.multi_label:
        return
    for images, other in ((train, test), (test, train)):
        here, there = (np.bincount(each.labels, minlength=len(each.classes)) for each in (images, other))
        absent = np.flatnonzero((here == 0) & (there > 0))
        if len(absent):
            names = ", ".join(f"'{images.classes[label]}'" for label in absent[:5])
            raise InputError(
                f"{images.name}, split {images.split}: no image has class {names}{', ...' if len(absent) > 5 else ''} "
                f"({len(absent)} of the {np.count_nonzero(there)} classes that {other.split} shows), expected at least "
                "one"
            )


def check_files(images: ImageSet) -> None:
    """Raises InputError: an image whose file is not there, or whose first bytes are no image's; all are counted."""
    wrong = unreadable(images)
    for row in wrong.tolist():
        try:
            images.decode(row)
        except InputError as error:
            more = f" ({len(wrong)} of {len(images)} images of {images.split} are like this)" if len(wrong) > 1 else ""
            raise InputError(f"{error}{more}") from None


def unreadable(images: ImageSet) -> np.ndarray:
    """Rows (M,) whose file is not there, whose header cannot be read, or whose image is larger than `max_pixels`."""
    width, height, _ = images.headers().astype(np.int64).T
    return np.flatnonzero((width == 0) | (width * height > images.max_pixels))


def in_both(train: ImageSet, test: ImageSet) -> np.ndarray:
    """Rows (M,) of `test` whose encoded bytes stand in `train` as well."""
    digests = [_as_scalars(images.digests()) for images in (train, test)]
    return np.flatnonzero(np.isin(digests[1], digests[0]) & test.digests().any(axis=1))


def repeated(images: ImageSet) -> list[np.ndarray]:
    """Groups of rows whose encoded bytes are the same, each in rising order."""
    values = _as_scalars(images.digests())
    order = np.argsort(values, kind="stable")
    order = order[images.digests()[order].any(axis=1)]  # what cannot be read is no copy of anything
    if not len(order):
        return []
    starts = np.flatnonzero(values[order][1:] != values[order][:-1]) + 1
    return [group for group in np.split(order, starts) if len(group) > 1]


def _as_scalars(digests: np.ndarray) -> np.ndarray:
    """uint8 (N, 32) -> uint64 (N,), its first eight bytes: two different files share them once in 2**64."""
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
