"""The loop: recipe, images and seed in, `backbone.safetensors` out; killed at any moment, it goes on where it was."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.backbones.handover import BackboneMetadata, Normalization, write_backbone
from pretrain.batches import batch_of_rank, training_images
from pretrain.data.images import ImageSet
from pretrain.model import build_model, compiled
from pretrain.monitor import OnlineKnn
from pretrain.optim import build_optimizer, cosine_momentum, learning_rates, load_optimizer_state
from pretrain.recipe import Recipe
from pretrain.runtime.curves import Curves
from pretrain.runtime.distributed import Ranks, any_rank, barrier, mean_over_ranks, process_group
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.interrupt import StopRequest, stop_request
from pretrain.runtime.progress import progress
from pretrain.state import StateStore, refuse_other_run, require_finite
from pretrain.step import StepFigures, accumulate_gradients, bf16_is_slow
from pretrain.views.two_views import two_view_loader

log = logging.getLogger("fastmoco")

COLLAPSED_SPREAD = 0.1


@dataclass(frozen=True)
class TrainResult:
    """What a finished pretraining leaves: the file it hands on, its last figures, how far it went."""

    backbone_path: Path
    metrics: dict[str, float]
    epochs: int
    steps: int


def train(
    recipe: Recipe, images: ImageSet, *, seed: int, out: Path, device: torch.device, resume: bool = True
) -> TrainResult:
    """Pretrain; all ranks call, rank 0 writes.

    In `out`: `backbone.safetensors`, `checkpoints/epoch_XXXX.safetensors` for `recipe.keep_epochs`, `state/`,
    `metrics.jsonl` and TensorBoard events. With `resume` a run goes on from its newest whole state; without, states
    that are there are an error, for nothing is overwritten.

    Raises:
        InputError: recipe, images and ranks do not fit together, or the state is another recipe's.
        RunFailedError: the loss is not finite, or a state cannot be written.
        Interrupted: SIGTERM or SIGUSR2 came; the state is saved.
    """
    with process_group(device, out) as ranks, stop_request() as stop:
        return _Training(recipe, images, seed, Path(out), device, ranks, stop).run(resume)


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        images: ImageSet,
        seed: int,
        out: Path,
        device: torch.device,
        ranks: Ranks,
        stop: StopRequest,
    ) -> None:
        self.recipe, self.seed, self.out, self.device, self.ranks, self.stop = recipe, seed, out, device, ranks, stop
        self.images = training_images(recipe, images)
        self.identity = self.images.identity  # of the files as they are now: one that breaks later is no other set
        self.batch_of_rank = batch_of_rank(recipe, len(self.images), ranks.world_size)
        self.steps_per_epoch = recipe.steps_per_epoch(len(self.images))
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.core = build_model(recipe, seed, device, ranks)
        self.optimizer = build_optimizer(recipe, self.core)
        self.model: nn.Module = self.core
        if recipe.compile:
            self.model = compiled(self.core)
        if ranks.world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Momentum encoder and buffers are the same on every rank by construction (gathered batch statistics, or
            # each rank's own): broadcasting them each step would only cost time.
            self.model = DistributedDataParallel(self.model, device_ids=ids, broadcast_buffers=False)
        self.states = StateStore(out / "state")
        self.knn = OnlineKnn(images, recipe.views, device, seed) if recipe.online_knn_every and ranks.is_main else None
        self.losses: list[Tensor] = []  # of the steps since the last look

    def run(self, resume: bool) -> TrainResult:
        start = self._restore(resume)
        if self.recipe.precision == "bf16" and self.ranks.is_main and bf16_is_slow(self.device):
            log.warning(
                "precision: bf16 takes about ten times as long as float32 on this processor, which has no AVX-512; "
                "leave it out here"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        last: dict[str, float] = {}
        step = start
        curves = Curves(self.out, resume_step=start + 1 if start else 0) if self.ranks.is_main else None
        try:
            unit = self.recipe.global_batch_size
            with progress("pretrain", self.total_steps * unit, start=start * unit) as bar:
                for views, waited_s in self._batches(start):
                    began = time.perf_counter()
                    figures, norm = self._step(step, views)
                    step += 1
                    if step % self.recipe.log_every_steps == 0 or step == self.total_steps:
                        last = self._look(step, figures, norm)
                        last |= {"data_s": waited_s, "step_s": time.perf_counter() - began}
                        if curves is not None:
                            curves.add(step, last)
                    bar.advance(unit, **{name: last[name] for name in ("loss", "positive", "spread") if name in last})
                    self._after_step(step, curves)
        except InputError:
            # A damaged image, found late: once it is mended the same command goes on.
            if step > start and self.ranks.is_main and all(torch.isfinite(loss) for loss in self.losses):
                self.states.save(step, self._state(), wait=True)
            raise
        finally:
            if curves is not None:
                curves.close()
        path = self.out / "backbone.safetensors"
        if self.ranks.is_main:
            self.states.finish()
            self._hand_over(path, self.recipe.epochs, self.total_steps)
        barrier()
        return TrainResult(path, last, self.recipe.epochs, self.total_steps)

    def _batches(self, start: int) -> Iterator[tuple[list[Tensor], float]]:
        first_epoch, skip = divmod(start, self.steps_per_epoch)
        for epoch in range(first_epoch, self.recipe.epochs):
            loader = two_view_loader(
                self.images,
                self.recipe.views,
                batch_size_per_rank=self.batch_of_rank,
                seed=self.seed,
                epoch=epoch,
                rank=self.ranks.rank,
                world_size=self.ranks.world_size,
                workers=self.recipe.workers,
                skip_batches=skip if epoch == first_epoch else 0,
                views=3 if self.recipe.extra_view else 2,
                pad=self.recipe.epoch_end == "pad",
                device=self.device,
            )
            began = time.perf_counter()
            for *views, _ in loader:
                ready = [self._to_device(view) for view in views]
                yield ready, time.perf_counter() - began
                began = time.perf_counter()

    def _to_device(self, view: Tensor) -> Tensor:
        view = view.to(self.device, non_blocking=True)
        if view.dtype == torch.uint8:
            mean, std = (
                torch.tensor(values, device=self.device).view(3, 1, 1)
                for values in (self.recipe.views.mean, self.recipe.views.std)
            )
            view = (view.float() / 255 - mean) / std
        return view.contiguous(memory_format=torch.channels_last)

    def _step(self, step: int, views: list[Tensor]) -> tuple[StepFigures, Tensor]:
        recipe = self.recipe
        rates = learning_rates(recipe, step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["role"]]
        momentum = recipe.momentum
        if recipe.momentum_schedule == "cosine":
            momentum = cosine_momentum(step, self.total_steps, recipe.momentum)
        self.optimizer.zero_grad(set_to_none=True)
        figures = accumulate_gradients(
            self.model,
            views,
            momentum=momentum,
            micro_batch_size=recipe.micro_batch_size,
            precision=recipe.precision,
            ranks=self.ranks,
        )
        limit = recipe.clip_grad_norm if recipe.clip_grad_norm is not None else math.inf
        norm = nn.utils.clip_grad_norm_(self.core.parameters(), limit)
        self.losses.append(figures.loss)
        if self.device.type == "cpu":
            self._require_finite(step + 1)  # on a GPU, where looking means waiting, once every `log_every_steps`
        self.optimizer.step()
        return figures, norm

    def _require_finite(self, step: int) -> None:
        losses, self.losses = mean_over_ranks(torch.stack(self.losses)), []
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            at = step - len(losses) + 1 + int(bad[0])
            epoch = (at - 1) // self.steps_per_epoch + 1
            raise RunFailedError(
                f"the loss is {losses[bad[0]].item()} at step {at} of {self.total_steps} (epoch {epoch}); the last "
                f"good state is kept in {self.states.directory}: a smaller base_lr, longer warmup_epochs or "
                "clip_grad_norm usually help"
            )

    def _look(self, step: int, figures: StepFigures, norm: Tensor) -> dict[str, float]:
        if self.losses:
            self._require_finite(step)
        loss, positive, negative, spread = mean_over_ranks(torch.stack(list(figures))).tolist()
        if spread < COLLAPSED_SPREAD and step > self.steps_per_epoch:
            log.warning(
                "step %d: the keys' spread is %.3f: the embeddings are collapsing (1 is healthy, 0 one point)",
                step,
                spread,
            )
        return {
            "loss": loss,
            "positive": positive,
            "negative": negative,
            "spread": spread,
            "grad_norm": norm.item(),
            "lr": self.optimizer.param_groups[0]["lr"],
            "epoch": step / self.steps_per_epoch,
        }

    def _after_step(self, step: int, curves: Curves | None) -> None:
        epoch, within = divmod(step, self.steps_per_epoch)
        if within == 0 and epoch in self.recipe.keep_epochs and self.ranks.is_main:
            self._hand_over(self.out / "checkpoints" / f"epoch_{epoch:04d}.safetensors", epoch, step)
        if within == 0 and self.knn is not None and epoch % self.recipe.online_knn_every == 0:
            accuracy = self.knn.measure(self.core.backbone)
            log.info("epoch %d: kNN top-1 on a held-out part of train %.2f %%", epoch, accuracy)
            if curves is not None:
                curves.add(step, {"online_knn_top1": accuracy})
        look = self.device.type == "cpu" or self.ranks.world_size == 1 or step % self.recipe.log_every_steps == 0
        stopping = look and step < self.total_steps and any_rank(self.stop.requested, self.device)
        if stopping or step % self.recipe.save_every_steps == 0 or step == self.total_steps:
            if self.losses:
                self._require_finite(step)
            # The loss was finite before this update; what the update made of the weights shows in the next one only.
            require_finite(
                self.core.state_dict(),
                f"the state of step {step} is not saved, the last good one is kept in {self.states.directory}",
            )
            if self.ranks.is_main:
                self.states.save(step, self._state(), wait=stopping)
            barrier()
        if stopping:
            request = self.stop
            if not request.requested:  # another rank heard the signal
                request.signum = 15
            raise request.leave(f"state saved at step {step} of {self.total_steps}; run the same command to resume")

    def _state(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "seed": self.seed,
            "images": self.identity,
            "model": self.core.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, resume: bool) -> int:
        found = self.states.latest()
        if found is None:
            return 0
        step, state = found
        if not resume:
            raise InputError(
                f"{self.states.directory} holds a state of step {step}: resume it, or choose another --out"
            )
        refuse_other_run(state, self.recipe, self.seed, self.identity)
        self.core.load_state_dict(state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        log.info("resuming at step %d of %d", step, self.total_steps)
        return step

    def _hand_over(self, path: Path, epoch: int, step: int) -> None:
        metadata = BackboneMetadata(
            backbone=self.recipe.backbone,
            normalization=Normalization(mean=self.recipe.views.mean, std=self.recipe.views.std),
            method=self.recipe.method,
            recipe=self.recipe.name,
            epoch=epoch,
            step=step,
            seed=self.seed,
            data=self.images.name,
            code_version=importlib.metadata.version("fastmoco"),
        )
        write_backbone(path, self.core.backbone.state_dict(), metadata)
