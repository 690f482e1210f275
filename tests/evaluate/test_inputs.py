from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evaluate import task
from evaluate.inputs import job_images
from evaluate.task import Job
from pretrain.data.splits import few
from pretrain.runtime.errors import InputError

MakeJob = Callable[..., Job]


def without_test(make_job: MakeJob, name: str, changes: dict[str, object], seed: int = 0) -> Job:
    """A job whose catalog has no test split, so that reading it is an error."""
    job = make_job(name, None, changes, seed=seed)
    del job.catalog.splits["test"]  # type: ignore[attr-defined]
    return job


def test_a_tenth_of_train_is_measured_and_the_test_set_left_alone(make_job: MakeJob) -> None:
    found = {}
    for seed in (0, 5):
        job = without_test(make_job, "knn", {"test_split": "tenth_of_train"}, seed)
        train = job.catalog.images("colours", "train")
        kept, measured = job_images(job)
        assert np.bincount(kept.labels).tolist() == [36, 36, 36]
        assert np.bincount(measured.labels).tolist() == [4, 4, 4]
        places = [{images.where(row) for row in range(len(images))} for images in (kept, measured)]
        assert places[0] | places[1] == {train.where(row) for row in range(len(train))}
        found[seed] = measured.identity
    assert found[0] == found[5]  # the same images for every seed


def test_the_tenth_is_not_what_a_short_pretraining_sees(make_job: MakeJob) -> None:
    job = without_test(make_job, "knn", {"test_split": "tenth_of_train"})
    train = job.catalog.images("colours", "train")
    measured = job_images(job)[1]
    pretrained = train.subset(few(train.labels, fraction=0.1, seed=0))
    assert len(measured) == len(pretrained) == 12
    both = {measured.where(row) for row in range(12)} & {pretrained.where(row) for row in range(12)}
    assert len(both) < 5  # one by chance, all 12 if both were drawn by one shuffle


@pytest.mark.parametrize("name", ["knn", "logreg"])
def test_a_pretraining_is_judged_without_a_test_set(make_job: MakeJob, name: str) -> None:
    changes: dict[str, object] = {"test_split": "tenth_of_train"}
    if name == "knn":
        changes |= {"k": 5, "also_k": []}
    metrics = task.run(name, without_test(make_job, name, changes))
    assert metrics[0].n == 12
    assert metrics[0].value > 80


def test_a_missing_test_split_is_refused_unless_a_part_of_train_is_asked_for(make_job: MakeJob) -> None:
    with pytest.raises(InputError, match="no split test"):
        job_images(without_test(make_job, "knn", {}))
