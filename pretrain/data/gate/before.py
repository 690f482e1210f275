"""The gate's checks in short, before the first image of a task that draws boxes or masks is read.

Tasks that classify ask `refusals.check_splits`, which says the same of labels.
"""

from __future__ import annotations

import logging

from pretrain.data.gate import refusals
from pretrain.data.gate.subjects import of_masks, of_objects
from pretrain.data.objects import ObjectSet
from pretrain.data.readers.masks import MaskSet
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")


def check_before(train: ObjectSet | MaskSet, test: ObjectSet | MaskSet) -> None:
    """Classes, files that are there and whose headers can be read, and sizes that fit the annotations.

    Test images that stand in train as well are said in the log.

    Raises:
        InputError: whatever of that does not hold; of several images the first is told, with how many there are.
    """
    for sentence in refusals.refused(train, test):
        raise InputError(sentence)
    of_train, of_test = (of_objects(each) if isinstance(each, ObjectSet) else of_masks(each) for each in (train, test))
    for subject in (of_train, of_test):
        refusals.check_files(subject.images)
        if subject.misfits:
            more = f" ({len(subject.misfits)} images of {subject.split} are like this)" * (len(subject.misfits) > 1)
            raise InputError(f"{subject.misfits[0]}{more}")
    refusals.tell_shared(of_train.images, of_test.images)
