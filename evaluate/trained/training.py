"""The loop of the protocols that train through the images: steps, curves, measuring each epoch, state, resuming.

Shapes: N test images, L classifiers.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from evaluate.metrics import accuracy
from evaluate.protocols.training import TrainingProtocol
from evaluate.task import Job
from evaluate.trained.lars import LarsAfterMomentum, LarsLrInMomentum
from evaluate.trained.train_data import batches_an_epoch, check_batch, train_batches
from pretrain.data.images import ImageSet
from pretrain.optim import LARS
from pretrain.runtime.curves import Curves
from pretrain.runtime.distributed import Ranks, any_rank, barrier, mean_over_ranks
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.interrupt import StopRequest
from pretrain.runtime.progress import progress
from pretrain.state import StateStore
from pretrain.transforms import TrainTransform

log = logging.getLogger("fastmoco")

LOOK_EVERY_STEPS = 20


class Subject(ABC):
    """What is trained: parameters with their base lrs, a loss, and how it is measured.

    Attributes:
        module: everything that is trained and saved; its forward takes `inputs_of`'s result and labels and gives the
            loss, a scalar.
        groups: (name, parameters, base lr) of each parameter group.
    """

    module: nn.Module
    groups: list[tuple[str, list[nn.Parameter], float]]

    @abstractmethod
    def inputs_of(self, images: Tensor) -> Any:
        """(B, 3, H, W) on the device -> what `module` takes."""

    @abstractmethod
    def measure(self) -> np.ndarray:
        """(N, min(5, K)) int64, the likeliest classes of every test image, by the first classifier; on every rank."""


@dataclass(frozen=True)
class Trained:
    """Predictions (N, min(5, K)) on test after the last epoch and after the best measured one, and which that was."""

    last: np.ndarray
    best: np.ndarray
    best_epoch: int


def build_optimizer(protocol: TrainingProtocol, groups: list[tuple[str, list[nn.Parameter], float]]) -> Optimizer:
    """The protocol's optimizer over named parameter groups; every group's lr is set before each step."""
    parameters = [{"params": members, "name": name, "base_lr": base_lr} for name, members, base_lr in groups]
    if protocol.optimizer == "sgd":
        return SGD(
            parameters,
            lr=0.0,
            momentum=protocol.momentum,
            nesterov=protocol.nesterov,
            weight_decay=protocol.weight_decay,
        )
    form = {"before_momentum": LARS, "after_momentum": LarsAfterMomentum, "lr_in_momentum": LarsLrInMomentum}
    return form[protocol.lars_form](
        parameters,
        lr=0.0,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        trust_coefficient=protocol.trust_coefficient,
        adapt_1d=True,
    )


class Training:
    """One training of a subject; `run` starts or resumes it. All ranks call, rank 0 writes.

    `metric` is what `best` is the best of. A second training of the same run has a `stage` of its own, the name of the
    folder in `out` for its state and curves.
    """

    def __init__(
        self,
        job: Job,
        subject: Subject,
        images: ImageSet,
        transform: TrainTransform,
        test_labels: np.ndarray,
        ranks: Ranks,
        stop: StopRequest,
        preset: TrainingProtocol | None,
        *,
        metric: str = "top1",
        stage: str = "",
    ) -> None:
        assert isinstance(job.protocol, TrainingProtocol)
        self.job, self.protocol, self.subject, self.images = job, job.protocol, subject, images
        self.transform, self.test_labels, self.ranks, self.stop = transform, test_labels, ranks, stop
        self.identity = images.identity
        check_batch(self.protocol.global_batch_size, len(images), ranks.world_size)
        batches = batches_an_epoch(len(images), self.protocol.global_batch_size, self.protocol.drop_last)
        self.steps_per_epoch = self.protocol.steps_per_epoch or batches
        self.steps = self.protocol.epochs * self.steps_per_epoch
        self.optimizer = build_optimizer(self.protocol, subject.groups)
        self.metric, self.out = metric, job.out / stage
        self.states = StateStore(self.out / "state")
        self.best: tuple[float, int, np.ndarray] | None = None  # metric %, epoch, predictions
        self.done = 0  # steps
        self.unmeasured = False  # the epoch that ended with step `done` is to be measured
        if ranks.is_main:
            base_lrs = {name: base_lr for name, _members, base_lr in subject.groups}
            log.info(self.protocol.lr_line(base_lrs, preset))

    def run(self) -> Trained:
        """Train to the end.

        Raises:
            InputError: batch and data do not fit, `out` holds the state of another protocol or of other images, or an
                image does not decode; what is trained is saved first.
            RunFailedError: the loss is not finite.
            Interrupted: a signal came; the state is saved; the same command resumes.
        """
        start = self._restore()
        module = self._parallel()
        curves = Curves(self.out, resume_step=start) if self.ranks.is_main else None
        last: np.ndarray | None = None
        self.done = start
        try:
            if self.unmeasured:
                last = self._after_epoch(start, curves, None)
            with progress(self.protocol.name, self.steps, unit="steps", start=start) as bar:
                batches = train_batches(
                    self.images,
                    self.transform,
                    global_batch_size=self.protocol.global_batch_size,
                    seed=self.job.seed,
                    steps=self.steps,
                    start=start,
                    ranks=self.ranks,
                    drop_last=self.protocol.drop_last,
                )
                for step, (inputs, labels) in enumerate(batches, start=start):
                    loss = self._step(module, step, inputs, labels)
                    self.done = done = step + 1
                    bar.advance()
                    if done % LOOK_EVERY_STEPS == 0 or done == self.steps:
                        self._look(done, loss, curves)
                    if done % self.steps_per_epoch == 0:
                        last = self._after_epoch(done, curves, last)
                    self._maybe_stop(done)
        except InputError:
            # A damaged image, found late: once it is mended the same command goes on.
            if self.ranks.is_main and (self.done > start or self.unmeasured):
                self.states.save(self.done, self._state(), wait=True)
            raise
        finally:
            self.states.finish()
            if curves is not None:
                curves.close()
        if last is None:  # resumed after the last step
            last = self.subject.measure()
        assert self.best is not None
        return Trained(last, self.best[2], self.best[1])

    def _parallel(self) -> nn.Module:
        if self.ranks.world_size == 1:
            return self.subject.module
        ids = [self.job.device.index] if self.job.device.type == "cuda" else None
        return DistributedDataParallel(self.subject.module, device_ids=ids)

    def _step(self, module: nn.Module, step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.protocol.lr_at(group["base_lr"], step, self.steps_per_epoch)
        device = self.job.device
        loss = module(self.subject.inputs_of(inputs.to(device, non_blocking=True)), labels.to(device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _look(self, done: int, loss: Tensor, curves: Curves | None) -> None:
        value = float(mean_over_ranks(loss))
        if not np.isfinite(value):
            raise RunFailedError(f"the loss is {value} at step {done} of {self.steps}: a smaller lr usually helps")
        if curves is not None:
            rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
            curves.add(done, {"loss": value, **rates})

    def _after_epoch(self, done: int, curves: Curves | None, last: np.ndarray | None) -> np.ndarray | None:
        epoch = done // self.steps_per_epoch
        if epoch % self.protocol.eval_every_epochs == 0 or done == self.steps:
            self.unmeasured = True
            last = self.subject.measure()
            self.unmeasured = False
            score = float(accuracy(last[:, 0] == self.test_labels, self.test_labels, self.metric))
            if self.best is None or score > self.best[0]:
                self.best = (score, epoch, last)
            if curves is not None:
                curves.add(done, {f"test_{self.metric}": score})
        if self.ranks.is_main:
            self.states.save(done, self._state())
        return last

    def _maybe_stop(self, done: int) -> None:
        look = self.ranks.world_size == 1 or done % LOOK_EVERY_STEPS == 0
        if done < self.steps and look and any_rank(self.stop.requested, self.job.device):
            if self.ranks.is_main:
                self.states.save(done, self._state(), wait=True)
            barrier()
            if not self.stop.requested:  # another rank heard the signal
                self.stop.signum = 15
            raise self.stop.leave(f"state saved at step {done} of {self.steps}; run the same command to resume")

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "made_of": self._made_of(),
            "module": self.subject.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "unmeasured": self.unmeasured,
        }
        if self.best is not None:
            score, epoch, predictions = self.best
            state["best"] = {"score": score, "epoch": epoch, "predictions": torch.from_numpy(predictions)}
        return state

    def _made_of(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "seed": self.job.seed,
            "images": self.identity,
            "weights": self.job.backbone.sha256,
        }

    def _restore(self) -> int:
        found = self.states.latest()
        if found is None:
            return 0
        step, state = found
        differing = [key for key, value in self._made_of().items() if state["made_of"][key] != value]
        if differing:
            raise InputError(
                f"{self.states.directory} holds the state of another run (its {', '.join(differing)} differ): expected "
                "an --out of this run's own"
            )
        self.subject.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.unmeasured = state.get("unmeasured", False)
        if "best" in state:
            best = state["best"]
            self.best = (best["score"], best["epoch"], best["predictions"].numpy())
        log.info("resuming at step %d of %d", step, self.steps)
        return step


def clear_state(out: Path, *stages: str) -> None:
    """Remove the states of a finished run, of all its stages: its result is what stays.

    Only its own folders are looked into: other runs may lie below `out`.
    """
    for stage in ("", *stages):
        StateStore(Path(out) / stage / "state").remove()
