"""How runs become SLURM jobs: small evaluations share one, and lanes hold the number that run at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.sites import resources_of
from benchmarks.campaign.spec import Launch, Resources


@dataclass
class Job:
    """Runs that one SLURM job does, one after the other, and what that job asks for.

    Attributes:
        needs: ids of the runs that must be done before.
        lane: jobs of one lane run one after the other; None when there is no limit.
    """

    runs: list[PlannedRun]
    resources: Resources
    needs: tuple[str, ...] = ()
    lane: int | None = None
    job_id: str = ""

    def name(self, tag: str) -> str:
        """The job's name in the queue, by which its runs are found again: `fastmoco:TAG:HASH+HASH...`.

        A run's hash says what it computes, not where to: `tag`, that of the root, tells two roots of one spec apart.
        """
        return f"{JOB_PREFIX}{tag}:" + "+".join(run.request.short() for run in self.runs)


JOB_PREFIX = "fastmoco:"


def group(runs: Iterable[PlannedRun], launch: Launch) -> list[Job]:
    """The jobs of `runs`, in an order in which each comes after those it needs.

    A pretraining has a job of its own. Evaluations that need the same pretraining and ask for the same resources share
    a job, up to `pack` of them.
    """
    jobs: list[Job] = []
    taking: dict[tuple[str, tuple[str, ...], str], Job] = {}
    for run in runs:
        resources = resources_of(launch, run.request.task, run.resources)
        pack = 1 if run.request.kind == "pretrain" else run.pack or launch.pack
        key = (run.request.kind, run.needs, resources.model_dump_json())
        job = taking.get(key)
        if job is not None and len(job.runs) < pack:
            job.runs.append(run)
            continue
        taking[key] = Job([run], resources, run.needs)
        jobs.append(taking[key])
    if launch.max_running is not None:
        for index, job in enumerate(jobs):
            job.lane = index % launch.max_running
    return jobs


def run_hashes(job_name: str, tag: str) -> list[str]:
    """The ends of the run ids that a job's name carries; none for a job of another root, or of something else."""
    prefix = f"{JOB_PREFIX}{tag}:"
    return job_name.removeprefix(prefix).split("+") if job_name.startswith(prefix) else []
