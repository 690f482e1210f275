"""Linear evaluation: a linear classifier on a frozen backbone, by the protocol's way of training it."""

from __future__ import annotations

from evaluate.frozen import sweep
from evaluate.protocols.linear import SweepProtocol
from evaluate.task import Job
from evaluate.trained import probe
from results.row import Metric


def run(job: Job) -> list[Metric]:
    """The metrics, by `frozen.sweep` for a protocol on cached features and by `trained.probe` for one on images."""
    return sweep.run(job) if isinstance(job.protocol, SweepProtocol) else probe.run(job)
