"""How runs become SLURM jobs, and jobs arrays: small evaluations share a job, jobs that ask for the same an array."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.sites import resources_of_run
from benchmarks.campaign.spec import Launch, Resources

# With a limit on running jobs, campaigns of up to so many jobs are chained job by job, so that an evaluation need not
# wait for all pretrainings; larger ones array by array.
_CHAINED_SINGLY = 200
_LONGEST_PACK = 32


@dataclass
class Job:
    """Runs that one SLURM job does, one after the other, and what that job asks for.

    Attributes:
        needs: ids of the runs that must be done before.
        lane: jobs of one lane run one after the other; None when there is no limit, or an array holds it.
    """

    runs: list[PlannedRun]
    resources: Resources
    needs: tuple[str, ...] = ()
    lane: int | None = None


@dataclass(frozen=True)
class Where:
    """A job in the queue that others may wait for: `JOB`, or `JOB_INDEX` of an array."""

    job_id: str
    index: int = 0
    is_array: bool = False

    @property
    def element_id(self) -> str:
        """SLURM's id of it."""
        return f"{self.job_id}_{self.index}" if self.is_array else self.job_id


@dataclass
class Batch:
    """Jobs for one call of sbatch: index -> job. `dependency` is theirs together; of an array, each element's."""

    jobs: dict[int, Job]
    is_array: bool
    dependency: str = ""

    @property
    def resources(self) -> Resources:
        """What each of its jobs asks for."""
        return next(iter(self.jobs.values())).resources

    def halves(self) -> tuple[Batch, Batch]:
        """Two smaller ones; elements keep their index, by which they may correspond to another array's."""
        items = list(self.jobs.items())
        middle = (len(items) + 1) // 2
        return (
            Batch(dict(items[:middle]), self.is_array, self.dependency),
            Batch(dict(items[middle:]), self.is_array, self.dependency),
        )


def group(
    runs: Iterable[PlannedRun],
    launch: Launch,
    *,
    resources: Callable[[PlannedRun], Resources] | None = None,
    seconds: Callable[[PlannedRun], float | None] = lambda run: None,
) -> list[Job]:
    """The jobs of `runs`, in an order in which each comes after those it needs.

    A pretraining has a job of its own. Evaluations that need the same pretraining and ask for the same resources share
    a job: up to `pack` of them, or, with `launch.target_min`, as many as take about so long by `seconds`.
    """
    resources = resources or (lambda run: resources_of_run(launch, run))
    jobs: list[Job] = []
    taking: dict[tuple[str, tuple[str, ...], str], Job] = {}
    filled_s: dict[int, float] = {}
    for run in runs:
        wanted = resources(run)
        key = (run.request.kind, run.needs, wanted.model_dump_json())
        job = taking.get(key)
        work_s = seconds(run) if launch.target_min is not None and run.pack is None else None
        if (
            job is not None
            and run.request.kind != "pretrain"
            and _room(job, run, launch, filled_s.get(id(job)), work_s)
        ):
            job.runs.append(run)
        else:
            taking[key] = job = Job([run], wanted, run.needs)
            jobs.append(job)
        if work_s is not None:
            filled_s[id(job)] = filled_s.get(id(job), 0.0) + work_s
    return jobs


def _room(job: Job, run: PlannedRun, launch: Launch, filled_s: float | None, work_s: float | None) -> bool:
    if launch.target_min is not None and filled_s is not None and work_s is not None:
        return filled_s + work_s <= launch.target_min * 60 and len(job.runs) < _LONGEST_PACK
    return len(job.runs) < (run.pack or launch.pack)


def chained_singly(jobs: Sequence[Job], launch: Launch) -> bool:
    """Whether lanes of single jobs hold the limit of running jobs, rather than the throttle of arrays."""
    if launch.max_running is None:
        return False
    return launch.array == "never" or (len(jobs) <= _CHAINED_SINGLY and any(job.needs for job in jobs))


def give_lanes(jobs: Sequence[Job], launch: Launch) -> None:
    """Deal the jobs out to as many lanes as may run at a time."""
    for index, job in enumerate(jobs):
        job.lane = index % (launch.max_running or 1)


def batches(jobs: Sequence[Job], launch: Launch, where: Mapping[str, Where], max_array: int) -> list[Batch]:
    """The fewest calls of sbatch for jobs all of whose needs are done or stand in the queue.

    Args:
        where: run id -> its job in the queue; a need that is not there is done.
        max_array: one more than the largest index an array may have.
    """
    if launch.array == "never" or chained_singly(jobs, launch):
        return [Batch({0: job}, False, after_all(job, where)) for job in jobs]
    found: list[Batch] = []
    free: dict[str, list[Job]] = defaultdict(list)
    after: dict[tuple[str, str], dict[Where, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        waits = list(dict.fromkeys(where[need] for need in job.needs if need in where))
        resources = job.resources.model_dump_json()
        if not waits:
            free[resources].append(job)
        elif len(waits) == 1:
            after[resources, waits[0].job_id][waits[0]].append(job)
        else:
            found.append(Batch({0: job}, False, after_all(job, where)))
    for alike in free.values():
        found += _arrays(alike, "", max_array)
    for by_need in after.values():
        slots = max(map(len, by_need.values()))
        if len(by_need) <= slots or not next(iter(by_need)).is_array:
            for need, alike in by_need.items():
                found += _arrays(alike, f"afterok:{need.element_id}", max_array)
            continue
        # Element by element: the s-th job after each element of one array is the element of the same index here.
        for slot in range(slots):
            row = {need.index: alike[slot] for need, alike in by_need.items() if slot < len(alike)}
            found.append(Batch(dict(sorted(row.items())), True, f"aftercorr:{next(iter(by_need)).job_id}"))
    return found


def after_all(job: Job, where: Mapping[str, Where]) -> str:
    """The dependency on every run a job needs that stands in the queue."""
    ids = dict.fromkeys(where[need].element_id for need in job.needs if need in where)
    return ",".join(f"afterok:{job_id}" for job_id in ids)


def _arrays(jobs: Sequence[Job], dependency: str, max_array: int) -> list[Batch]:
    size = max(max_array, 1)
    parts = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    return [Batch(dict(enumerate(part)), len(part) > 1, dependency) for part in parts]


def ranges(indices: Iterable[int]) -> str:
    """[0, 1, 2, 5] as sbatch writes it: 0-2,5."""
    words: list[str] = []
    start = last = None
    for index in [*sorted(indices), None]:
        if last is not None and index == last + 1:
            last = index
            continue
        if start is not None:
            words.append(str(start) if start == last else f"{start}-{last}")
        start = last = index
    return ",".join(words)
