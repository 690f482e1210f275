"""`fastmoco data check`: what a set holds, whether it is whole, and whether evaluation would refuse it.

Everything is read by the code that evaluation reads it by, and refused by the functions that evaluation refuses it by.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pretrain.data.catalog import Catalog
from pretrain.data.entries import CocoEntry, FileListEntry, TorchvisionEntry, VocEntry
from pretrain.data.gate import refusals
from pretrain.data.gate.duplicates import near_inside, near_pairs
from pretrain.data.gate.opening import Opened, open_all
from pretrain.data.gate.report import Report, SplitReport
from pretrain.data.gate.subjects import Subject, open_subject
from pretrain.data.headers import KINDS
from pretrain.data.images import ImageSet
from pretrain.data.manifests import imagenet_classes, manifests, recognise
from pretrain.data.readers.masks import MaskSet
from pretrain.runtime.errors import InputError

_NAMED = 12  # classes that are named with their counts; of more, the most and the fewest


def check_set(catalog: Catalog, name: str, *, open_images: bool = False, page: Path | None = None) -> Report:
    """Count a set's images and classes, hold them to what is known of the set, and ask what evaluation would ask.

    Args:
        catalog, name: the set.
        open_images: also decode every image (and mask) as evaluation does: the damaged ones are named, all of them,
            and pictures that are nearly the same are found.
        page: write an HTML page with a contact sheet of each class there.

    Raises:
        InputError: no such set. What is wrong with the set itself stands in the report.
    """
    entry = catalog.entry(name)
    report = Report(name)
    subjects: dict[str, Subject] = {}
    opened: dict[str, Opened] = {}
    for split in entry.splits():
        with _told(report, split):
            try:
                subject = open_subject(catalog, name, entry, split)
            except InputError as error:
                report.problems.append(f"{split}: {error}")
                continue
        subjects[split] = subject
        found = SplitReport(split, len(subject.images), len(subject.images.classes))
        report.splits.append(found)
        _hold_to_what_is_known(catalog, name, subject, report)
        if open_images:
            opened[split] = open_all(subject)
            found.opened = len(subject.images)
            report.add(split, "damaged", opened[split].damaged)
        else:
            _unreadable(subject, report)
            report.add(split, "damaged", list(subject.misfits))
        _describe(subject, opened.get(split), found)
        if open_images and isinstance(subject.opened, MaskSet) and subject.counts.any():
            absent = [subject.images.classes[label] for label in np.flatnonzero(subject.counts == 0)]
            report.add(split, "class without a pixel", absent, warn=split != "train")
    _refusals(subjects, report)
    _between(subjects, opened, report)
    if isinstance(entry, TorchvisionEntry):
        from pretrain.data.torchvision_facts import facts

        report.title, report.where = entry.name, facts(entry.name).where
    if page is not None:
        from pretrain.data.gate.page import write_page

        write_page(report, list(subjects.values()), page)
    return report


def _describe(subject: Subject, opened: Opened | None, found: SplitReport) -> None:
    images, counts, facts = subject.images, subject.counts, found.facts
    facts["images"] = f"{len(images)}" + (f", {found.opened} opened" if found.opened else "")
    facts["classes"] = f"{len(images.classes)}" if images.classes else "none: no labels, for pretraining only"
    if images.classes and (counts.sum() or subject.counted == "images"):
        facts[subject.counted + " a class"] = _per_class(images.classes, counts, share=subject.counted == "pixels")
    facts |= subject.facts
    headers = images.headers()
    facts["size"] = _sizes(headers)
    kinds = [f"{int((headers[:, 2] >> bit & 1).sum())} {kind}" for bit, kind in enumerate(KINDS)]
    facts["kinds"] = ", ".join(told for told in kinds if not told.startswith("0 ")) or "8-bit colour"
    facts["left out"] = "; ".join(images.notes) or "nothing"
    damaged = len(opened.damaged) if opened is not None else len(refusals.unreadable(images))
    facts["damaged"] = f"{damaged}" + ("" if opened is not None else " by their headers")
    groups = refusals.repeated(images)
    facts["duplicates"] = f"{sum(len(group) - 1 for group in groups)} exact"
    if opened is not None:
        same = {int(row) for group in groups for row in group[1:]}
        near = [row for row in opened.rows[near_inside(opened.hashes)[:, 0]].tolist() if row not in same]
        facts["duplicates"] += f", {len(near)} near"


def _per_class(classes: tuple[str, ...], counts: np.ndarray, *, share: bool) -> str:
    def told(label: int) -> str:
        return f"{classes[label]} " + (f"{100 * counts[label] / counts.sum():.2g} %" if share else f"{counts[label]}")

    if len(classes) <= _NAMED:
        return ", ".join(map(told, range(len(classes))))
    most, fewest = told(int(counts.argmax())), told(int(counts.argmin()))
    return f"most {most}, fewest {fewest}" + ("" if share else f", median {round(float(np.median(counts)))}")


def _sizes(headers: np.ndarray) -> str:
    sizes = headers[headers[:, 0] > 0, :2]
    if not len(sizes):
        return "unknown"
    if (sizes == sizes[0]).all():
        return f"{sizes[0, 0]}x{sizes[0, 1]} px"
    longer = sizes.max(axis=1)
    return f"longer side {longer.min()} to {longer.max()} px, median {round(float(np.median(longer)))}"


def _unreadable(subject: Subject, report: Report) -> None:
    """The images that need not be opened to know that they cannot be."""
    told = []
    for row in refusals.unreadable(subject.images).tolist():
        try:
            subject.read(row)
        except InputError as error:
            told.append(str(error))
    missing = [reason.removeprefix("no image at ") for reason in told if reason.startswith("no image at ")]
    report.add(subject.split, "no file at", missing)
    report.add(subject.split, "damaged", [reason for reason in told if not reason.startswith("no image at ")])


def _refusals(subjects: dict[str, Subject], report: Report) -> None:
    """What evaluation refuses of the splits and of their being of one set."""
    train, measured = subjects.get("train"), [subjects[split] for split in ("val", "test") if split in subjects]
    if train is None or not measured:
        return  # nothing is measured on it: pretraining asks for no classes
    for test in measured:
        for told in refusals.refused(train.opened, test.opened, measured=test is measured[-1]):
            if told not in report.problems:
                report.problems.append(told)


def _between(subjects: dict[str, Subject], opened: dict[str, Opened], report: Report) -> None:
    """Test images that stand in train as well."""
    train = subjects.get("train")
    for split in ("val", "test"):
        if train is None or split not in subjects:
            continue
        images = subjects[split].images
        same = refusals.in_both(train.images, images)
        if len(same):
            report.warnings.append(
                f"{len(same)} of {len(images)} images of {split} are in train as well, the same bytes, such as "
                f"{images.where(int(same[0]))}"
            )
        if split not in opened or "train" not in opened:
            continue
        pairs = near_pairs(opened[split].hashes, opened["train"].hashes)
        near = [
            (int(opened[split].rows[one]), int(opened["train"].rows[other]))
            for one, other in pairs.tolist()
            if opened[split].rows[one] not in set(same.tolist())
        ]
        if near:
            here, there = near[0]
            report.warnings.append(
                f"{len(near)} of {len(images)} images of {split} look nearly like one of train, such as "
                f"{images.where(here)} and {train.images.where(there)}"
            )


def _hold_to_what_is_known(catalog: Catalog, name: str, subject: Subject, report: Report) -> None:
    """Compare the split with the counts of the sets that the field knows."""
    entry, split, images = catalog.entry(name), subject.split, subject.images
    if isinstance(entry, VocEntry):
        if entry.classes == "voc":
            manifest = manifests()["voc"]
            report.title, report.where = manifest.title, manifest.where
            expected = [manifest.lists.get(part) for part in getattr(entry, split)]
            total = sum(count or 0 for count in expected)
            if None not in expected and len(images) != total:
                report.problems.append(f"{split}: {len(images)} images, {manifest.title} lists {total}")
    elif isinstance(entry, CocoEntry):
        manifest = manifests()["coco"]
        # The file's name alone does not make it COCO's: parts and look-alikes keep the name.
        if manifest.files.get(Path(getattr(entry, split).json_file).name) == len(images):
            report.title, report.where = manifest.title, manifest.where
    elif isinstance(subject.opened, ImageSet) and (known := recognise(subject.opened)) is not None:
        manifest = manifests()[known]
        report.title, report.where = manifest.title, manifest.where
        # A list names a part on purpose; folders and Parquet files are meant to be the whole set.
        if isinstance(entry, FileListEntry):
            return
        as_known = "val" if known == "imagenet" and split == "test" else split
        if known == "imagenet":
            report.add(split, "class folder missing", sorted(set(imagenet_classes()) - set(images.classes)))
        expected_images = manifest.images.get(as_known, len(images))
        if len(images) != expected_images:
            report.problems.append(f"{split}: {len(images)} images, {manifest.title} has {expected_images}")
            low, _ = manifest.per_class[as_known]
            counts = Counter(images.labels.tolist())
            short = [
                f"{folder} ({counts[label]} images, at least {low} expected)"
                for label, folder in enumerate(images.classes)
                if counts[label] < low
            ]
            report.add(split, "class too small", short)


@contextmanager
def _told(report: Report, split: str) -> Iterator[None]:
    """What readers warn of (boxes without area, for instance) becomes part of the report."""

    class _Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report.warnings.append(f"{split}: {record.getMessage()}")

    log, collect = logging.getLogger("fastmoco"), _Collect(logging.WARNING)
    log.addHandler(collect)
    try:
        yield
    finally:
        log.removeHandler(collect)
