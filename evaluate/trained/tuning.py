"""Fine-tuning the whole network, and measuring it on any number of ranks with each test image counted once.

Shapes: B batch, K classes, N test images.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from evaluate import metrics
from evaluate.frozen.representation import laid_out_images
from evaluate.guards import EachOnce, check_weights_are_the_files, fewest_values
from evaluate.inputs import batches, main_metric, test_input
from evaluate.protocols.finetune import TunedProtocol
from evaluate.task import Job
from evaluate.trained.head import linear_head
from evaluate.trained.probe import last_and_best
from evaluate.trained.train_data import probe_transform, smallest_batch
from evaluate.trained.training import Subject, Training, clear_state
from pretrain.backbones.batchnorm import across_ranks
from pretrain.backbones.registry import Backbone
from pretrain.data.images import ImageSet
from pretrain.runtime.distributed import Ranks, gather, process_group
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_bytes
from pretrain.runtime.interrupt import stop_request
from pretrain.transforms import TestTransform
from results.row import Metric

TEST_BATCH = 128


def tune(job: Job, train: ImageSet, test: ImageSet, preset: TunedProtocol | None) -> list[Metric]:
    """Fine-tune on `train` and measure on `test` after each epoch; the rows of `last` and of `best`.

    `job.protocol` is the `TunedProtocol` to follow. Writes `head.safetensors` (`weight` (K, D), `bias` (K,)).

    Raises:
        InputError: several labels an image, a batch that does not fit the data, or one of a single image for which
            batch norm has no statistics.
        RunFailedError: the loss is not finite.
        Interrupted: a signal came; the same command resumes.
    """
    protocol = job.protocol
    assert isinstance(protocol, TunedProtocol)
    check_weights_are_the_files(job.backbone)
    if train.multi_label:
        raise InputError(f"'{job.data}' has several labels an image: use the tasks svm or logreg")
    own, module = job.backbone.metadata.normalization, job.backbone.module
    transform = test_input(protocol, train, own, module=module, test=test, told=job.told)
    metric = main_metric(job, train.multi_label)
    with process_group(job.device, job.out) as ranks, stop_request() as stop:
        subject = Tuned(job, protocol, len(train.classes), test, transform, ranks)
        augmented = probe_transform(protocol, transform, job.seed)
        training = Training(job, subject, train, augmented, test.labels, ranks, stop, preset, metric=metric)
        subject.check_batch_norm(training.steps, len(train))
        trained = training.run()
        if ranks.is_main:
            metrics.save_correct(job.out, trained.last[:, 0] == test.labels)
            head = subject.module.head
            tensors = {"weight": head.weight.detach().cpu().contiguous(), "bias": head.bias.detach().cpu().contiguous()}
            write_bytes(job.out / "head.safetensors", save(tensors))
            clear_state(job.out)
    return last_and_best(trained, test.labels, len(train.classes), job.seed, metric)


class _Network(nn.Module):
    def __init__(self, trunk: Backbone, classes: int, protocol: TunedProtocol, seed: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = linear_head(trunk.width, classes, protocol, seed)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.head(self.trunk(images)), labels)


class Tuned(Subject):
    """Backbone and head, both trained; measured on the images themselves, shared out among the ranks."""

    module: _Network

    def __init__(
        self,
        job: Job,
        protocol: TunedProtocol,
        classes: int,
        test: ImageSet,
        transform: TestTransform,
        ranks: Ranks,
    ) -> None:
        self.test, self.transform, self.ranks, self.device, self.bn = test, transform, ranks, job.device, protocol.bn
        self.protocol = protocol
        trunk = copy.deepcopy(job.backbone.module).requires_grad_(True).to(job.device)
        if job.device.type == "cpu":  # there a step of a CIFAR ResNet-20 takes 1.1 s so, and 1.5 s channels first
            trunk = trunk.to(memory_format=torch.channels_last)
        if protocol.bn == "sync" and ranks.world_size > 1:
            across_ranks(trunk, job.device)
        self.module = _Network(trunk, classes, protocol, job.seed).to(job.device)
        self.groups = [
            ("trunk", list(self.module.trunk.parameters()), protocol.trunk_lr),
            ("head", list(self.module.head.parameters()), protocol.head_lr),
        ]

    def check_batch_norm(self, steps: int, n: int) -> None:
        """No batch of a training of so many steps over `n` images leaves a batch norm a single value a channel.

        Raises:
            InputError: one does: the batch holds one image, and a map of the trunk has one pixel. One value has no
                variance, so that only another batch is right; which one is not chosen in silence.
        """
        across = self.bn == "sync" and self.ranks.world_size > 1
        batch, drop_last = self.protocol.global_batch_size, self.protocol.drop_last
        if across or smallest_batch(n, batch, drop_last, steps, self.ranks.world_size) > 1:
            return
        side, trunk = self.transform.crop, self.module.trunk
        assert side is not None
        one = self.inputs_of(torch.zeros(1, 3, side, side, device=self.device))
        if fewest_values(trunk, lambda: trunk(one)) != 1:
            return
        a_rank = "" if self.ranks.world_size == 1 else " a rank"
        ragged = batch > self.ranks.world_size
        which = f"the last batch of an epoch ({n} training images, {batch} a batch)" if ragged else "a batch"
        drop = "drop_last=true, " if ragged else ""
        raise InputError(
            f"{which} has 1 image{a_rank}, and at {side} px a map of '{trunk.name}' has 1 pixel: batch norm needs 2 "
            f"values, expected {drop}another global_batch_size or bn=eval"
        )

    def inputs_of(self, images: Tensor) -> Tensor:
        """The images, laid out as the trunk; the network goes into training mode, its batch norm as told."""
        self.module.train()
        if self.bn == "eval":
            for module in self.module.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return laid_out_images(images)

    @torch.no_grad()
    def measure(self) -> np.ndarray:
        """(N, min(5, K)) predictions on the test images, the same on every rank."""
        self.module.eval()
        n, world_size = len(self.test), self.ranks.world_size
        if world_size > 1:
            for buffer in self.module.buffers():
                dist.broadcast(buffer, src=0)  # ranks with batch statistics of their own: rank 0's network is measured
        places = np.arange(self.ranks.rank, -(-n // world_size) * world_size, world_size)  # from n on: padding
        share = self.test.subset(places % n)
        found = [
            torch.from_numpy(metrics.top_classes(self._logits(inputs)))
            for inputs, _indices in batches(share, self.transform, batch_size=TEST_BATCH)
        ]
        all_found = gather(torch.cat(found).to(self.device)).cpu().numpy()
        all_places = gather(torch.from_numpy(places).to(self.device)).cpu().numpy()
        real = all_places < n
        once = EachOnce(n)
        once.saw(all_places[real])
        once.check()
        predictions = np.empty((n, all_found.shape[1]), dtype=np.int64)
        predictions[all_places[real]] = all_found[real]
        return predictions

    def _logits(self, inputs: Tensor) -> np.ndarray:
        return self.module.head(self.module.trunk(laid_out_images(inputs.to(self.device)))).cpu().numpy()
