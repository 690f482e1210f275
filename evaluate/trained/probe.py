"""Linear classifiers trained through a frozen backbone on augmented images.

Shapes: B batch, D feature width, K classes, L classifiers, N images.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from evaluate import metrics
from evaluate.frozen.features import Features, extract
from evaluate.frozen.representation import POOLED, Sees, images_at_once, laid_out, represent_many
from evaluate.guards import check_weights_are_the_files, frozen
from evaluate.inputs import job_images, main_metric, test_input
from evaluate.protocols.linear import PROTOCOLS, LinearProtocol
from evaluate.task import Job
from evaluate.trained.head import linear_head
from evaluate.trained.train_data import probe_transform
from evaluate.trained.training import Subject, Trained, Training, clear_state
from pretrain.backbones.registry import Backbone
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve
from pretrain.runtime.distributed import process_group
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_bytes, write_json
from pretrain.runtime.interrupt import stop_request
from results.row import Metric

log = logging.getLogger("fastmoco")


@dataclass(frozen=True)
class Kind:
    """One classifier: what it sees and its base lr."""

    sees: Sees
    base_lr: float


def run(job: Job) -> list[Metric]:
    """Accuracy after the last epoch (`last`) and after the best one (`best`); with several classifiers that of the one
    chosen on held-out training images (`held_out`).

    Writes `head.safetensors` (`weight` (K, D), `bias` (K,)) of the classifier that the main metric is of.

    Raises:
        InputError: what `job_images` refuses, several labels an image, or a batch that does not fit the data.
        RunFailedError: the loss is not finite, or the backbone changed.
        Interrupted: a signal came; the same command resumes.
    """
    protocol = job.protocol
    assert isinstance(protocol, LinearProtocol)
    check_weights_are_the_files(job.backbone)
    train, test = job_images(job)
    if train.multi_label:
        raise InputError(f"'{job.data}' has several labels an image: use the tasks svm or logreg")
    kinds = classifiers(protocol, job.backbone.module)
    everything = train
    held_out: ImageSet | None = None
    if len(kinds) > 1:
        rest, chosen_on = carve(train.labels, protocol.held_out, job.seed)
        train, held_out = everything.subset(rest), everything.subset(chosen_on)
    own, module = job.backbone.metadata.normalization, job.backbone.module
    transform = test_input(protocol, train, own, module=module, test=test, told=job.told)
    metric, classes = main_metric(job, train.multi_label), len(train.classes)
    preset = PROTOCOLS.get(protocol.name)
    trunk = laid_out(job.backbone.module, job.device)
    with process_group(job.device, job.out) as ranks, stop_request() as stop, frozen(trunk):

        def features(images: ImageSet, of: list[Kind]) -> dict[Sees, Features]:
            return {
                sees: extract(
                    job.backbone,
                    images,
                    transform,
                    job.device,
                    job.cache,
                    sees=sees,
                    ranks=ranks,
                )
                for sees in sorted({kind.sees for kind in of})
            }

        def trained(of: list[Kind], images: ImageSet, stage: str = "") -> tuple[Probe, Trained]:
            probe = Probe(trunk, of, classes, features(test, of), protocol, job.seed)
            training = Training(
                job,
                probe,
                images,
                probe_transform(protocol, transform, job.seed),
                test.labels,
                ranks,
                stop,
                preset if isinstance(preset, LinearProtocol) else None,
                metric=metric,
                stage=stage,
            )
            return probe, training.run()

        probe, result = trained(kinds, train)
        if held_out is None:
            rows = last_and_best(result, test.labels, classes, job.seed, metric)
            which, predictions = 0, result.last
        else:
            which, scores = probe.choose(features(held_out, kinds), held_out.labels, metric)
            predictions = probe.predict(which, probe.test)
            if protocol.refit:
                probe, result = trained([kinds[which]], everything, "refit")
                predictions = result.last
            detail = {**_described(kinds[which], scores[which]), "refit": protocol.refit}
            rows = metrics.accuracies(
                predictions, test.labels, classes, seed=job.seed, selection="held_out", detail=detail, main=metric
            )
            if ranks.is_main:
                tried = [_described(kind, score) for kind, score in zip(kinds, scores, strict=True)]
                write_json(job.out / "classifiers.json", {"chosen": which, "tried": tried})
    if ranks.is_main:
        metrics.save_correct(job.out, predictions[:, 0] == test.labels)
        head = probe.module.heads[which if len(probe.kinds) > 1 else 0]
        assert isinstance(head, nn.Linear)
        tensors = {"weight": head.weight.detach().cpu().contiguous(), "bias": head.bias.detach().cpu().contiguous()}
        write_bytes(job.out / "head.safetensors", save(tensors))
        clear_state(job.out, "refit")
    return rows


def last_and_best(trained: Trained, labels: np.ndarray, classes: int, seed: int, main: str) -> list[Metric]:
    """The metrics after the last epoch, then those after the epoch that was best on test, marked as such."""
    last = metrics.accuracies(trained.last, labels, classes, seed=seed, selection="last", main=main)
    detail = {"epoch": trained.best_epoch}
    return last + metrics.accuracies(
        trained.best, labels, classes, seed=seed, selection="best", detail=detail, main=main
    )


def classifiers(protocol: LinearProtocol, backbone: Backbone) -> list[Kind]:
    """Every classifier the protocol trains; what a backbone without tokens cannot give is left out, and said."""
    sees = [
        Sees(layers, average, protocol.tokens, protocol.norm)
        for layers, average in itertools.product(protocol.blocks, protocol.patch_averages)
    ]
    if not backbone.is_plain and sees != [POOLED]:
        log.info("%s has no tokens: its pooled output is what is probed, not %s", backbone.name, sees)
        sees = [POOLED]
    return [Kind(each, base_lr) for each in sees for base_lr in protocol.base_lrs]


def _described(kind: Kind, score: float) -> dict[str, float | int | bool | str]:
    return {
        "base_lr": kind.base_lr,
        **kind.sees.described(),
        "held_out_score": score,
    }


class _Classifiers(nn.Module):
    """L linear classifiers; the loss is the sum of theirs, so that each gets the gradient of its own alone."""

    def __init__(
        self, kinds: list[Kind], widths: dict[Sees, int], classes: int, protocol: LinearProtocol, seed: int
    ) -> None:
        super().__init__()
        self.kinds = kinds
        # All start from the same weights: what differs between classifiers is what the protocol says differs.
        self.heads = nn.ModuleList(linear_head(widths[kind.sees], classes, protocol, seed) for kind in kinds)

    def forward(self, seen: dict[Sees, Tensor], labels: Tensor) -> Tensor:
        pairs = zip(self.kinds, self.heads, strict=True)
        return torch.stack([F.cross_entropy(head(seen[kind.sees]), labels) for kind, head in pairs]).sum()


class Probe(Subject):
    """Classifiers on a frozen trunk in eval mode, measured on cached test features."""

    module: _Classifiers

    def __init__(
        self,
        trunk: Backbone,
        kinds: list[Kind],
        classes: int,
        test: dict[Sees, Features],
        protocol: LinearProtocol,
        seed: int,
    ) -> None:
        # Eval mode for good: "it is not legitimate to change any part of the pre-trained model" (moco-v3
        # main_lincls.py:341-348), and BN in train mode would revise its statistics.
        self.trunk = trunk.eval()
        self.kinds, self.test = kinds, test
        widths = {sees: features.width for sees, features in test.items()}
        self.device = next(trunk.parameters()).device
        self.module = _Classifiers(kinds, widths, classes, protocol, seed).to(self.device)
        names = [f"head{i}" for i in range(len(kinds))] if len(kinds) > 1 else ["head"]
        heads = zip(names, self.module.heads, kinds, strict=True)
        self.groups = [(name, list(head.parameters()), kind.base_lr) for name, head, kind in heads]

    @torch.no_grad()
    def inputs_of(self, images: Tensor) -> dict[Sees, Tensor]:
        """(B, 3, H, W) -> each representation (B, D), without a graph: the trunk gets no gradient."""
        wanted = list(self.test)
        parts = [
            represent_many(self.trunk, chunk, wanted)
            for chunk in images.split(images_at_once(images.device, images.shape[-1]))
        ]
        return {sees: torch.cat([part[i] for part in parts]) for i, sees in enumerate(wanted)}

    def measure(self) -> np.ndarray:
        """Predictions of the first classifier on the test images."""
        return self.predict(0, self.test)

    @torch.no_grad()
    def predict(self, which: int, features: dict[Sees, Features]) -> np.ndarray:
        """(N, min(5, K)) predictions of one classifier on cached features."""
        head, seen = self.module.heads[which], features[self.kinds[which].sees]
        return np.concatenate(
            [
                metrics.top_classes(head(torch.from_numpy(block).to(self.device)).cpu().numpy())
                for _start, block in seen.blocks(4096)
            ]
        )

    def choose(self, features: dict[Sees, Features], labels: np.ndarray, metric: str) -> tuple[int, list[float]]:
        """The classifier with the best metric on these images (of equals the first) and every one's, in percent."""
        scores = [
            float(metrics.accuracy(self.predict(which, features)[:, 0] == labels, labels, metric))
            for which in range(len(self.kinds))
        ]
        return int(np.argmax(scores)), scores
