"""Train a detector iteration by iteration, so that a run that is killed and resumed ends with the same bits on a CPU.

The loop is ours and not detectron2's trainer, whose sampler and augmentation start anew when it resumes. Models,
losses, transforms and the optimizer's parameter groups are detectron2's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from fvcore.nn import update_bn_stats
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evaluate.detection.samples import TrainingImages, loader
from evaluate.protocols.detector import DetectionProtocol
from evaluate.trained_before import identity, take_over
from pretrain.runtime.curves import Curves
from pretrain.runtime.distributed import Ranks, any_rank, barrier, mean_over_ranks
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.interrupt import StopRequest
from pretrain.runtime.progress import progress
from pretrain.state import StateStore

log = logging.getLogger("fastmoco")

LOOK_EVERY = 20  # iterations between two points of the curves
_SAMPLING = 2  # stream of the draws inside the model; 0 and 1 are those of `samples`
_STATISTICS = 3  # seed word of the batches that norm statistics are taken over
# Fields that a resumed run may change: they move no number of the training.
MEASURING = {
    *("interpolation", "main", "trials", "score_threshold", "nms_threshold", "detections_per_image"),
    *("min_size_test", "max_size_test", "rpn_topk_test"),
}
_BOOKKEEPING = {"name", "source", "sources", *MEASURING}


class Training:
    """One run: detector, optimizer, data, and where it stands."""

    def __init__(
        self,
        detector: nn.Module,
        cfg: CfgNode,
        protocol: DetectionProtocol,
        images: TrainingImages,
        *,
        identity: dict[str, Any],
        out: Path,
        device: torch.device,
        ranks: Ranks,
        stop: StopRequest,
    ) -> None:
        """`identity`: what, besides the protocol, a state must have been made with (seed, checkpoint, images)."""
        if protocol.global_batch_size % ranks.world_size:
            batch = protocol.global_batch_size
            raise InputError(f"global_batch_size is {batch}, expected a multiple of the {ranks.world_size} ranks")
        self.per_rank = protocol.global_batch_size // ranks.world_size
        self.detector, self.protocol, self.images, self.identity = detector, protocol, images, identity
        self.out, self.device, self.ranks, self.stop = out, device, ranks, stop
        self.schedule = protocol.schedule()
        self.save_every = max(1, min(1000, self.schedule.max_iter // 10))
        self.optimizer = build_optimizer(cfg, detector)
        self.model: nn.Module = detector
        if ranks.world_size > 1:
            ids = [device.index] if device.type == "cuda" else None
            # Norm statistics are taken over all ranks, so the buffers are equal without being sent.
            self.model = DistributedDataParallel(detector, device_ids=ids, broadcast_buffers=False)
        self.states = StateStore(out / "state")
        self.unchecked: list[Tensor] = []

    def run(self, curves: Curves | None = None) -> None:
        """Train to the end, then compute the norm statistics anew where the protocol says so.

        Raises:
            InputError: the state in `out` is another run's.
            RunFailedError: the loss is not finite, or a state cannot be written.
            Interrupted: SIGTERM or SIGUSR2 came; the state is saved.
        """
        if self.ranks.is_main:
            settings = self.protocol.model_dump(mode="json")
            take_over(self.out, identity("detection", settings, _BOOKKEEPING, self.identity))
        barrier()
        start = done = self.restore()
        end = self.schedule.max_iter
        batches = loader(self.images, self.per_rank, start, end, self.ranks.rank, self.ranks.world_size, self.device)
        own_curves = curves is None and self.ranks.is_main
        if own_curves:
            curves = Curves(self.out, resume_step=start)
        self.detector.train()
        unit = self.protocol.global_batch_size
        try:
            with EventStorage(start) as storage, progress("detection", end * unit, start=start * unit) as bar:
                for iteration, batch in enumerate(batches, start=start):
                    storage.iter = iteration
                    losses = self._step(iteration, batch)
                    done = iteration + 1
                    if done % LOOK_EVERY == 0 or done == end:
                        figures = self._look(done, losses)
                        if curves is not None:
                            curves.add(done, figures)
                        bar.advance(unit, loss=figures["loss"], lr=figures["lr"])
                    else:
                        bar.advance(unit)
                    self._save_or_stop(done)
                if self.protocol.statistics_batches():
                    self._precise_statistics()
        except InputError:
            # A damaged image, found late: once it is mended the same command goes on.
            if self.ranks.is_main and start < done < end and all(torch.isfinite(loss) for loss in self.unchecked):
                self.states.save(done, self._state(), wait=True)
            raise
        finally:
            if own_curves and curves is not None:
                curves.close()
            self.states.finish()

    def restore(self) -> int:
        """Go back to the newest state; the iterations that are done."""
        found = self.states.latest()
        if found is None:
            return 0
        done, state = found
        before = {**state["protocol"], **state["identity"]}
        now = {**self.protocol.model_dump(mode="json"), **self.identity}
        for key in sorted(now.keys() - _BOOKKEEPING):
            if before.get(key) != now[key]:
                raise InputError(
                    f"cannot resume: the state in {self.states.directory} was made with {key} {before.get(key)!r}, "
                    f"now it is {now[key]!r}; choose another --out"
                )
        self.detector.load_state_dict(state["detector"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["loss_normalizer"] is not None:
            self.detector.loss_normalizer = state["loss_normalizer"]  # type: ignore[assignment]
        log.info("resuming at iteration %d of %d", done, self.schedule.max_iter)
        return done

    def _step(self, iteration: int, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        lr = self.schedule.lr_at(iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with _draws_of(_SAMPLING, self.images.seed, iteration, self.ranks.rank, self.device):
            try:
                losses: dict[str, Tensor] = self.model(batch)
            except FloatingPointError:  # detectron2's own look at its proposals
                raise self._diverged("what the detector predicts is no longer finite", iteration + 1) from None
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        self.unchecked.append(loss.detach())
        if self.device.type == "cpu":
            self._require_finite(iteration + 1)  # on a GPU, where looking means waiting, every LOOK_EVERY iterations
        self.optimizer.step()
        return {**{name: value.detach() for name, value in losses.items()}, "loss": loss.detach()}

    def _look(self, done: int, losses: dict[str, Tensor]) -> dict[str, float]:
        self._require_finite(done)
        means = mean_over_ranks(torch.stack(list(losses.values()))).tolist()
        return {**dict(zip(losses, means, strict=True)), "lr": self.optimizer.param_groups[0]["lr"]}

    def _require_finite(self, done: int) -> None:
        if not self.unchecked:
            return
        losses, self.unchecked = mean_over_ranks(torch.stack(self.unchecked)), []
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            at = done - len(losses) + 1 + int(bad[0])
            raise self._diverged(f"the loss is {losses[bad[0]].item()}", at)

    def _diverged(self, what: str, at: int) -> RunFailedError:
        end = self.schedule.max_iter
        return RunFailedError(
            f"{what} at iteration {at} of {end}; a smaller base_lr or longer warmup_iters usually help"
        )

    def _save_or_stop(self, done: int) -> None:
        end = self.schedule.max_iter
        look = self.device.type == "cpu" or self.ranks.world_size == 1 or done % LOOK_EVERY == 0
        stopping = look and done < end and any_rank(self.stop.requested, self.device)
        if stopping or done % self.save_every == 0 or done == end:
            self._require_finite(done)
            if self.ranks.is_main:
                self.states.save(done, self._state(), wait=stopping)
            barrier()
        if stopping:
            if not self.stop.requested:  # another rank heard the signal
                self.stop.signum = 15
            raise self.stop.leave(f"state saved at iteration {done} of {end}; run the same command to resume")

    def _state(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.model_dump(mode="json"),
            "identity": self.identity,
            "detector": self.detector.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            # RetinaNet keeps a running mean of its positives outside its buffers.
            "loss_normalizer": getattr(self.detector, "loss_normalizer", None),
        }

    def _precise_statistics(self) -> None:
        count = self.protocol.statistics_batches()
        images = TrainingImages(
            self.images.objects, self.protocol, self.images.channels, _word(_STATISTICS, self.images.seed)
        )
        batches = loader(images, self.per_rank, 0, count, self.ranks.rank, self.ranks.world_size, self.device)

        def seeded() -> Iterator[list[dict[str, Any]]]:
            for number, batch in enumerate(batches):
                with _draws_of(_STATISTICS, self.images.seed, number, self.ranks.rank, self.device):
                    yield batch

        log.info("norm statistics anew, over %d batches", count)
        update_bn_stats(self.detector, seeded(), count)


def _word(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def _draws_of(stream: int, seed: int, number: int, rank: int, device: torch.device) -> Iterator[None]:
    """detectron2 draws anchors and proposals from torch's global generator: it is lent out, seeded by all of these."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_word(stream, seed, number, rank))
        yield
