"""Train a segmentor step by step, so that a run that is killed and resumed ends with the same bits on a processor.

The loop is ours and not mmengine's Runner: the Runner draws crops and dropout from global generators that its
checkpoints do not hold and starts its shuffled sampler anew, so its resumed runs end elsewhere. Models, losses,
transforms and inference are mmsegmentation's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from evaluate.guards import fewest_values, frozen
from evaluate.protocols.segmentor import SegmentationProtocol
from evaluate.segmentation import mmengine_files, scores
from evaluate.segmentation.library import quiet
from evaluate.segmentation.measuring import measure
from evaluate.segmentation.pictures import as_png, chosen, sheet
from evaluate.segmentation.samples import TestImages, TrainingCrops, training_batches
from evaluate.segmentation.tallies import Confusions
from evaluate.trained_before import identity, take_over
from pretrain.backbones.batchnorm import across_ranks
from pretrain.runtime.curves import Curves
from pretrain.runtime.distributed import Ranks, any_rank, barrier, mean_over_ranks
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import canonical_hash, write_bytes
from pretrain.runtime.interrupt import StopRequest
from pretrain.runtime.progress import progress
from pretrain.state import StateStore

if TYPE_CHECKING:
    from mmseg.models.segmentors import EncoderDecoder

log = logging.getLogger("fastmoco")

# Fields of the test alone: a finished segmentor can be measured anew by others.
MEASURING = frozenset({"test_mode", "test_scale", "slide_stride"})
# Fields that a resumed run may change: they move no number.
BOOKKEEPING = frozenset({"name", "save_every", "log_every", "pictures", "source", "sources", "main", *MEASURING})
_DROPOUT = 2  # the stream of these draws; 0 and 1 are those of `samples`


class Training:
    """One run: model, optimizer, data, and where it stands.

    Attributes:
        segmentor: trained in place.
        best: step and mIoU of the best measurement so far; None before the first.
    """

    def __init__(
        self,
        segmentor: EncoderDecoder,
        protocol: SegmentationProtocol,
        crops: TrainingCrops,
        test: TestImages,
        *,
        identity: dict[str, Any],
        out: Path,
        device: torch.device,
        ranks: Ranks,
        stop: StopRequest,
    ) -> None:
        """`identity`: what, besides the protocol, a state must have been made with (seed, checkpoint, images)."""
        if protocol.global_batch_size % ranks.world_size:
            raise InputError(
                f"global_batch_size {protocol.global_batch_size} cannot be split over {ranks.world_size} processes"
            )
        self.protocol, self.crops, self.test, self.identity = protocol, crops, test, identity
        self.out, self.device, self.ranks, self.stop = out, device, ranks, stop
        self.segmentor = segmentor.to(device)
        self.model: nn.Module = self.segmentor
        if ranks.world_size > 1:
            across_ranks(self.segmentor, device)
            ids = [device.index] if device.type == "cuda" else None
            # Batch norm takes its statistics over all ranks, so buffers are equal without being sent.
            self.model = DistributedDataParallel(self.segmentor, device_ids=ids, broadcast_buffers=False)
        else:
            log.info("one process: batch norm sees the whole batch, so the protocol's SyncBN is plain batch norm here")
            self._check_batch_norm()
        self.optimizer = build_optimizer(protocol, self.segmentor)
        self.states = StateStore(out / "state")
        self.best: tuple[int, float] | None = None
        settings = protocol.model_dump(mode="json")
        self.measured = canonical_hash([test.masks.identity, {key: settings[key] for key in sorted(MEASURING)}])
        self.unchecked: list[torch.Tensor] = []
        self.done = 0  # steps

    def _check_batch_norm(self) -> None:
        """Raises InputError: a batch of one image leaves a batch norm of a head (ASPP, PPM) one value a channel."""
        if self.protocol.global_batch_size > 1:
            return
        side = self.crops.crop
        one = torch.zeros(1, 3, side, side, device=self.device)
        if fewest_values(self.segmentor, lambda: self.segmentor(one, mode="tensor")) == 1:
            raise InputError(
                f"global_batch_size is 1, and head '{self.protocol.head}' pools an image to 1 pixel: batch norm needs "
                "2 values, expected at least 2 images a batch"
            )

    def run(self) -> Confusions:
        """Train to the end from where the newest state stands; the confusion counts of the last measurement.

        Raises:
            InputError: the state is another run's.
            RunFailedError: the loss is not finite, a frozen trunk moved, or a state cannot be written.
            Interrupted: SIGTERM or SIGUSR2 came; the state is saved.
        """
        guard = frozen(self.segmentor.backbone) if self.protocol.trunk == "frozen" else nullcontext()
        with guard, quiet():
            # What mmengine began here is no training of ours, and none to hand on.
            if self.ranks.is_main and mmengine_files.last_checkpoint(self.out) is None:
                settings = self.protocol.model_dump(mode="json")
                take_over(self.out, identity("segmentation", settings, BOOKKEEPING, self.identity))
            barrier()
            start = self._restore()
            # A point bears the number of steps done: that of the restored step is to be kept.
            curves = Curves(self.out, resume_step=start + 1 if start else 0) if self.ranks.is_main else None
            try:
                confusions = self._train(start, curves)
            except InputError:
                # A damaged image, found late: once it is mended the same command goes on.
                finite = all(torch.isfinite(loss) for loss in self.unchecked)
                if self.ranks.is_main and start < self.done and finite:
                    self.states.save(self.done, self._state(), wait=True)
                raise
            finally:
                if curves is not None:
                    curves.close()
                self.states.finish()
        return confusions

    def _train(self, start: int, curves: Curves | None) -> Confusions:
        protocol, total = self.protocol, self.protocol.iterations
        batches = training_batches(
            self.crops, protocol.global_batch_size, start, total, self.ranks.rank, self.ranks.world_size, self.device
        )
        self.segmentor.train()
        self.done = start
        unit = protocol.global_batch_size
        with progress("segmentation", total * unit, start=start * unit) as bar:
            for step, batch in enumerate(batches, start=start):
                figures = self._step(step, batch)
                self.done = done = step + 1
                if done % protocol.log_every == 0 or done == total:
                    figures = self._look(done, figures)
                    if curves is not None:
                        curves.add(done, figures)
                bar.advance(unit, loss=float(figures["loss"]) if self.device.type == "cpu" else math.nan)
                if protocol.evaluate_every and done % protocol.evaluate_every == 0 and done < total:
                    self._measure(done, curves)
                self._save_or_stop(done)
        return self._measure(total, curves)

    def _step(self, step: int, batch: dict[str, list[Any]]) -> dict[str, Any]:
        lr = self.protocol.lr_at(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with _draws_of(self.crops.seed, step, self.ranks.rank, self.device):
            data = self.segmentor.data_preprocessor(batch, True)
            loss, parts = self.segmentor.parse_losses(self.model(**data, mode="loss"))
        loss.backward()
        limit = self.protocol.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_((p for p in self.segmentor.parameters() if p.requires_grad), limit)
        self.unchecked.append(loss.detach())
        if self.device.type == "cpu":
            self._require_finite(step + 1)  # on a GPU, where looking means waiting, once every `log_every` steps
        self.optimizer.step()
        return {**parts, "loss": loss.detach(), "grad_norm": norm, "lr": lr}

    def _look(self, done: int, figures: dict[str, Any]) -> dict[str, float]:
        self._require_finite(done)
        tensors = {name: value for name, value in figures.items() if isinstance(value, torch.Tensor)}
        means = mean_over_ranks(
            torch.stack([value.detach().float().reshape(()) for value in tensors.values()])
        ).tolist()
        return {**dict(zip(tensors, means, strict=True)), "lr": figures["lr"]}

    def _require_finite(self, done: int) -> None:
        if not self.unchecked:
            return
        losses, self.unchecked = mean_over_ranks(torch.stack(self.unchecked)), []
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            at = done - len(losses) + 1 + int(bad[0])
            raise RunFailedError(
                f"the loss is {losses[bad[0]].item()} at step {at} of {self.protocol.iterations}; a smaller base_lr, "
                "warmup_iterations or clip_norm usually help"
            )

    def _measure(self, done: int, curves: Curves | None) -> Confusions:
        masks = self.test.masks
        last = done == self.protocol.iterations
        keep = chosen(masks, self.protocol.pictures) if self.protocol.pictures else []
        confusions, kept = measure(self.segmentor, self.test, self.device, self.ranks, keep)
        figures = scores.summary(confusions.matrix())
        if self.best is None or figures["mIoU"] > self.best[1]:
            self.best = (done, figures["mIoU"])
        log.info("step %d: %s", done, ", ".join(f"{name} {value:.2f} %" for name, value in figures.items()))
        if curves is not None:
            curves.add(done, figures)
            if kept:
                page = sheet(masks, kept)
                curves.image("predictions", done, page)
                if last:
                    write_bytes(self.out / "pictures" / "predictions.png", as_png(page))
        return confusions

    def _save_or_stop(self, done: int) -> None:
        total, protocol = self.protocol.iterations, self.protocol
        look = self.device.type == "cpu" or self.ranks.world_size == 1 or done % protocol.log_every == 0
        stopping = look and any_rank(self.stop.requested, self.device)
        if stopping or done % protocol.save_every == 0 or done == total:
            self._require_finite(done)
            if self.ranks.is_main:
                self.states.save(done, self._state(), wait=stopping)
            barrier()
        if stopping:
            if not self.stop.requested:  # another rank heard the signal
                self.stop.signum = 15
            raise self.stop.leave(f"state saved at step {done} of {total}; run the same command to resume")

    def _state(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "identity": self.identity,
            "state_dict": self.segmentor.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": list(self.best) if self.best else None,
            "measured": self.measured,
        }

    def _restore(self) -> int:
        found = self.states.latest()
        if found is None:
            return self._take_over()
        step, state = found
        before, now = state["protocol"], self.protocol.model_dump(mode="json")
        differing = {key for key in now if key not in BOOKKEEPING and before.get(key) != now[key]}
        differing |= {key for key in self.identity if state["identity"].get(key) != self.identity[key]}
        for key in sorted(differing):
            then, given = ({**before, **state["identity"]}.get(key), {**now, **self.identity}[key])
            raise InputError(
                f"cannot resume: the state in {self.states.directory} was made with {key} {then!r}, "
                f"now it is {given!r}; choose another --out"
            )
        self.segmentor.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        # What was best on other test images, or measured otherwise, says nothing here.
        same = state.get("measured") == self.measured
        self.best = tuple(state["best"]) if state["best"] and same else None
        log.info("resuming at step %d of %d", step, self.protocol.iterations)
        return step

    def _take_over(self) -> int:
        """Step of the checkpoint that mmengine's Runner left in this directory for the same model; 0 without one."""
        path = mmengine_files.last_checkpoint(self.out)
        if path is None:
            return 0
        checkpoint = mmengine_files.read(path)
        step = mmengine_files.restore(checkpoint, path, self.segmentor, self.optimizer)
        log.info("resuming at step %d of %d, which mmengine left in %s", step, self.protocol.iterations, path)
        return step


def build_optimizer(protocol: SegmentationProtocol, segmentor: nn.Module) -> torch.optim.Optimizer:
    """The protocol's optimizer over all parameters in one group, as in the sources; frozen ones get no gradient."""
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(
            segmentor.parameters(), lr=protocol.lr(), betas=protocol.betas, weight_decay=protocol.weight_decay
        )
    return torch.optim.SGD(
        segmentor.parameters(), lr=protocol.lr(), momentum=protocol.momentum, weight_decay=protocol.weight_decay
    )


@contextmanager
def _draws_of(seed: int, step: int, rank: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generator: it is lent to this step, seeded by (seed, step, rank)."""
    number = int(np.random.SeedSequence([_DROPOUT, seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield
