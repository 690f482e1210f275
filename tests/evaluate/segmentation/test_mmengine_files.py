"""mmengine's checkpoints: read without running them, taken over, resumed by its Runner, and written for mmseg."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluate import task
from evaluate.segmentation import library, mmengine_files, models
from evaluate.segmentation.geometry import Geometry
from evaluate.task import Job
from pretrain.runtime.errors import InputError

# mmengine's Runner: pkg_resources-style imports, and a sampler that warns of its own argument.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mmengine", "ignore::UserWarning:mmengine")


class Noise(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        generator = torch.Generator().manual_seed(index)
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 3, (1, 32, 32), generator=generator)))
        sample.set_metainfo({"img_shape": (32, 32), "ori_shape": (32, 32)})
        return {
            "inputs": torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8, generator=generator),
            "data_samples": sample,
        }


def runner(this: Job, work_dir: Path, iterations: int, **arguments: Any) -> Any:
    from mmengine.runner import Runner

    segmentor = models.build(this.backbone, this.protocol, Geometry.of(this.protocol, 48), 3, seed=0)
    with library.quiet():
        return Runner(
            model=segmentor,
            work_dir=str(work_dir),
            train_dataloader={
                "batch_size": 2,
                "num_workers": 0,
                "dataset": Noise(),
                "sampler": {"type": "InfiniteSampler", "shuffle": True},
                "collate_fn": {"type": "pseudo_collate"},
            },
            train_cfg={"type": "IterBasedTrainLoop", "max_iters": iterations},
            optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
            default_hooks={
                "checkpoint": {"type": "CheckpointHook", "interval": iterations, "by_epoch": False},
                "logger": {"type": "LoggerHook", "interval": 1},
            },
            default_scope="mmseg",
            log_level="ERROR",
            experiment_name=work_dir.parent.name + work_dir.name,
            **arguments,
        )


@pytest.fixture
def theirs(job: Callable[..., Job], tmp_path: Path) -> Path:
    """A checkpoint that mmengine's Runner left after 3 iterations."""
    this = job("fcn_small", iterations=8)
    with library.quiet():
        runner(this, tmp_path / "theirs", 3).train()
    return tmp_path / "theirs" / "iter_3.pth"


def test_a_runners_file_needs_exactly_the_globals_we_let_in(theirs: Path):
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        torch.load(theirs, weights_only=True)
    wanted = set(torch.serialization.get_unsafe_globals_in_checkpoint(theirs))
    assert wanted <= {
        "mmengine.logging.history_buffer.HistoryBuffer",
        *("builtins.getattr", "numpy.dtype", "numpy.ndarray"),
        *("numpy._core.multiarray.scalar", "numpy._core.multiarray._reconstruct"),
    }
    read = mmengine_files.read(theirs)
    assert read["meta"]["iter"] == 3
    history = read["message_hub"]["log_scalars"]["train/loss"].data
    assert history[0].shape == (3,)
    assert np.isfinite(history[0]).all()
    assert mmengine_files.last_checkpoint(theirs.parent) == theirs


def test_our_run_goes_on_from_where_mmengine_stopped(theirs: Path, job: Callable[..., Job]):
    this = job("fcn_small", iterations=8, log_every=1, out=theirs.parent)
    task.run("segmentation", this)
    from pretrain.runtime.curves import read_curves

    assert [p["step"] for p in read_curves(this.out / "metrics.jsonl") if "loss" in p] == [4, 5, 6, 7, 8]


def test_mmengines_runner_resumes_among_the_allowed_globals(theirs: Path, job: Callable[..., Job], tmp_path: Path):
    this = job("fcn_small", iterations=8)
    with library.quiet(), mmengine_files.allowed():
        resumed = runner(this, tmp_path / "resumed", 5, load_from=str(theirs), resume=True)
        resumed.train()
    assert resumed.iter == 5
    assert mmengine_files.read(tmp_path / "resumed" / "iter_5.pth")["meta"]["iter"] == 5


class Call:
    def __reduce__(self) -> Any:
        return os.mkdir, ("pwned",)


class Reach:
    def __reduce__(self) -> Any:
        return getattr, (np.ndarray, "tofile")


@pytest.mark.parametrize("evil", [Call(), Reach()])
def test_a_file_that_asks_for_more_is_refused_and_nothing_runs(
    evil: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    torch.save({"meta": {"iter": 1, "x": evil}, "state_dict": {}}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth cannot be read as an mmengine checkpoint"):
        mmengine_files.read(tmp_path / "evil.pth")
    assert not (tmp_path / "pwned").exists()


def test_files_of_other_models_and_no_checkpoints_are_refused(theirs: Path, job: Callable[..., Job], tmp_path: Path):
    with pytest.raises(InputError, match=r"iter_3\.pth is of another model: it differs in \d+ tensors, for instance"):
        task.run("segmentation", job("smoke", out=theirs.parent, iterations=8))
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(InputError, match="expected the keys 'meta' and 'state_dict'"):
        mmengine_files.read(tmp_path / "list.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(InputError, match=r"noise\.pth cannot be read"):
        mmengine_files.read(tmp_path / "noise.pth")


def test_mmseg_loads_our_segmentor_and_predicts_what_we_measured(job: Callable[..., Job]):
    this = job("fcn_small", iterations=4, pictures=0)
    task.run("segmentation", this)
    from mmengine.config import Config
    from mmseg.apis import inference_model, init_model

    checkpoint = torch.load(this.out / "segmentor.pth", weights_only=True)
    config = Config.fromstring(checkpoint["meta"]["cfg"], ".py")
    with library.quiet():
        model = init_model(config, str(this.out / "segmentor.pth"), device="cpu")
    assert model.dataset_meta["classes"] == ["ground", "disc", "square"]
    from evaluate.segmentation.scores import confusion

    masks = this.catalog.masks("tiny", "test")
    total = np.zeros((3, 3), np.int64)
    for index, (image, _) in enumerate(masks.pairs):
        with library.quiet():
            result = inference_model(model, str(image))
        total += confusion(masks.mask(index), result.pred_sem_seg.data[0].numpy().astype(np.uint8), 3)
    assert np.array_equal(total, np.load(this.out / "confusion.npy"))
