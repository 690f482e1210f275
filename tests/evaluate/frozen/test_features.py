from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from evaluate import task
from evaluate.frozen import features
from evaluate.frozen.representation import Sees
from evaluate.inputs import test_input as input_of
from evaluate.protocols.knn import PROTOCOLS
from pretrain.data.images import ImageSet
from pretrain.runtime.errors import InputError

CPU = torch.device("cpu")


def extracted(job, backbone, **options):
    images = job.catalog.images("colours", "train")
    transform = input_of(job.protocol, images, backbone.metadata.normalization)
    return features.extract(backbone, images, transform, CPU, job.cache, **options)


def test_features_are_the_backbones_output_memory_mapped(make_job, mean_colour) -> None:
    job = make_job("knn")
    found = extracted(job, mean_colour)
    assert isinstance(found.values, np.memmap)
    images = job.catalog.images("colours", "train")
    transform = input_of(job.protocol, images, mean_colour.metadata.normalization)
    expected = mean_colour.module(torch.stack([transform(images.decode(i)) for i in range(120)]))
    np.testing.assert_allclose(found.take(np.arange(120)), expected, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([block for _start, block in found.views(7)]), found.values)


def test_the_key_follows_weights_images_and_transform(make_job, mean_colour) -> None:
    job = make_job("knn")
    extracted(job, mean_colour)
    extracted(job, mean_colour, sees=Sees(2))
    extracted(make_job("knn", "vissl"), mean_colour)  # the same transform for small images but for interpolation
    mean_colour.module.bn.weight.mul_(2)
    extracted(job, mean_colour)
    assert len(list((job.cache / "features").glob("*.npy"))) == 4
    # The same weights compute something else where a config beside them moves the stride or the padding.
    for changed in ({"stride_in_1x1": True}, {"padding": "same"}, {"backbone": "other"}):
        metadata = mean_colour.metadata.model_copy(update=changed)
        extracted(job, dataclasses.replace(mean_colour, metadata=metadata))
    assert len(list((job.cache / "features").glob("*.npy"))) == 7


def test_a_damaged_file_is_computed_again(make_job, mean_colour, caplog) -> None:
    job = make_job("knn")
    first = np.array(extracted(job, mean_colour).values)
    path = next((job.cache / "features").glob("*.npy"))
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_array_equal(extracted(job, mean_colour).values, first)
    assert "computed again" in caplog.text


def test_small_images_are_used_at_their_own_size(make_job, mean_colour) -> None:
    images = make_job("knn").catalog.images("colours", "train")
    native = input_of(PROTOCOLS["dino"], images, mean_colour.metadata.normalization)
    assert (native.resize, native.crop) == (None, 8)
    upscaled = input_of(PROTOCOLS["dino"].override({"native_up_to_px": 0}), images, mean_colour.metadata.normalization)
    assert (upscaled.resize, upscaled.crop) == (256, 224)


def test_features_with_nan_name_the_image(make_job, mean_colour) -> None:
    mean_colour.module.bn.weight[0] = float("nan")
    with pytest.raises(InputError, match=r"gives features with NaN or infinity for picture 0"):
        extracted(make_job("knn"), mean_colour)


def relabelled(images: ImageSet, labels: np.ndarray) -> ImageSet:
    return ImageSet(images._source, name=images.name, split=images.split, classes=images.classes, labels=labels)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.r_[np.zeros(119), 3].astype(np.int64), r"label 3 of picture 119 is outside 0..2 \(3 classes\)"),
        (np.r_[-1, np.ones(119)].astype(np.int64), r"label -1 of picture 0 is outside 0..2"),
        (np.zeros(120, dtype=np.int64), r"all images are of one class \('c0'\), expected at least two"),
    ],
)
def test_labels_that_do_not_fit(make_job, labels: np.ndarray, sentence: str) -> None:
    job = make_job("knn")
    job.catalog.splits["train"] = relabelled(job.catalog.images("colours", "train"), labels)
    with pytest.raises(InputError, match=sentence):
        task.run("knn", job)


def test_an_empty_split_and_other_classes(make_job) -> None:
    job = make_job("knn")
    test = job.catalog.images("colours", "test")
    job.catalog.splits["test"] = test.subset(np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="split test: the split is empty, expected at least one image"):
        task.run("knn", job)
    job.catalog.splits["test"] = ImageSet(
        test._source, name="colours", split="test", classes=("c0", "c1", "x"), labels=test.labels
    )
    with pytest.raises(InputError, match="expected the same list"):
        task.run("knn", job)
