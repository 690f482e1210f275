"""Fine-tuning with all labels."""

from __future__ import annotations

from evaluate.inputs import job_images
from evaluate.protocols.finetune import PROTOCOLS
from evaluate.task import Job
from evaluate.trained.tuning import tune
from results.row import Metric


def run(job: Job) -> list[Metric]:
    """Accuracy after the last epoch (`last`) and after the best one (`best`); see `evaluate.trained.tuning.tune`."""
    train, test = job_images(job)
    return tune(job, train, test, PROTOCOLS.get(job.protocol.name))
