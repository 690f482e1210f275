"""The campaign spec, a YAML file: what to pretrain, which checkpoints to measure, by which tasks, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from evaluate.task import TASKS
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.settings import Path_, Seed, Settings, load_yaml, validate

# A run's task as `launch.tasks` names it; "tables" is the job that writes the tables once all runs have ended.
KINDS = ("pretrain", *TASKS, "tables")
Seeds = tuple[Seed, ...]


class Resources(Settings):
    """What a job asks of SLURM; None leaves the choice to the next wider setting, at last to the site.

    Attributes:
        nodes, gpus_per_node, tasks_per_node: of a pretraining; one process a GPU when tasks_per_node is not given.
        cpus_per_task, partition, account, qos, constraint, exclude: sbatch's options of these names.
        mem_gb: per node.
        timeout_min: the job's time limit; a run that reaches it saves its state and is queued again.
        signal_delay_s: how long before the limit the run is asked to save.
        setup: shell lines before the run starts (`module load cuda`).
        python: the command that starts Python in a job, where it is not the one that submits
            (`apptainer exec --nv image.sif python`); fastmoco must be installed there.
        srun: arguments of the job's srun, one a string (`--container-image=/images/fastmoco.sqsh`).
        options: any other sbatch option by its long name, for instance {reservation: night}. null or false takes one
            away that is written otherwise ({wckey: null}); {requeue: false} becomes --no-requeue. In `job-name` and
            `comment`, `{mark}` stands for the words by which a job is found again.
    """

    nodes: int | None = Field(default=None, ge=1)
    gpus_per_node: int | None = Field(default=None, ge=0)
    tasks_per_node: int | None = Field(default=None, ge=1)
    cpus_per_task: int | None = Field(default=None, ge=1)
    mem_gb: float | None = Field(default=None, gt=0)
    timeout_min: int | None = Field(default=None, ge=1)
    signal_delay_s: int | None = Field(default=None, ge=1)
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    setup: tuple[str, ...] | None = None
    python: str | None = None
    srun: tuple[str, ...] | None = None
    options: dict[str, str | int | float | bool | None] | None = None

    @field_validator("options")
    @classmethod
    def _not_ours(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        """Long names with hyphens; `array` and the like would break how runs are found again."""
        named = {key.lstrip("-").replace("_", "-"): value for key, value in (options or {}).items()}
        for key, instead in _NOT_OPTIONS.items():
            if key in named:
                raise ValueError(f"'{key}' is not an option to give here: {instead}")
        return named if options is not None else None

    def over(self, wider: Resources) -> Resources:
        """These settings, and `wider`'s where these say nothing; of `options`, each by itself."""
        names = Resources.model_fields
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        both = {name: getattr(wider, name) for name in names} | own
        if self.options and wider.options:
            both["options"] = wider.options | self.options
        return Resources(**both)


_NOT_OPTIONS = {
    "array": "launch.array says whether runs are submitted as arrays",
    "wrap": "a job runs what the campaign gives it",
    "test-only": "campaign plan submits nothing",
    "parsable": "what sbatch prints is read by fastmoco",
    "wait": "campaign run --watch waits",
}


class SharedResources(Resources):
    """What every job asks of SLURM, with more for some checkpoints and backbones; the first pattern that fits counts.

    Attributes:
        by_backbone: pattern of a backbone's name -> what its runs ask for, for instance {vit_large*: {mem_gb: 80}}.
        by_checkpoint: pattern of a label of `pretrain` or `checkpoints` -> the same, over `by_backbone`.
    """

    by_backbone: dict[str, Resources] = {}
    by_checkpoint: dict[str, Resources] = {}


class OutOfMemory(Settings):
    """What is done about a run that ran out of memory; where nobody knows what it asked for, it is not tried again.

    Attributes:
        mem_factor: what the memory is multiplied by each time.
        max: how often.
    """

    mem_factor: float = Field(default=2.0, gt=1)
    max: int = Field(default=1, ge=0)


class Times(Settings):
    """How often something is tried again.

    Attributes:
        max: how often; 0 for never.
    """

    max: int = Field(default=3, ge=0)


class Retry(Settings):
    """Which endings of a job `--watch` and `--feeder` answer with another one. Preempted jobs always come back.

    Attributes:
        oom: out of memory: once more, with twice the memory, unless given otherwise.
        node: the node failed, or jobs on it; three times. Nodes on which jobs fail quickly are left out.
        timeout: time limits in a row that a run may reach without having saved anything new; two.
    """

    oom: OutOfMemory = OutOfMemory()
    node: Times = Times(max=3)
    timeout: Times = Times(max=2)


class PretrainEntry(Settings):
    """One method to pretrain.

    Attributes:
        recipe: by name, or a YAML file.
        data: a set of the catalog.
        seeds: one pretraining each.
        set: changes to the recipe, keys may be dotted.
        resources: what its jobs ask of SLURM, over `launch`.
    """

    recipe: str
    data: str
    seeds: Seeds = Field(default=(0,), min_length=1)
    set: dict[str, Any] = {}
    resources: Resources = Resources()


class CheckpointEntry(Settings):
    """Weights that are there already: a file (or a glob of files), or a backbone at random initialisation.

    Attributes:
        file: a path or glob, relative to the spec; a glob that matches several files makes one checkpoint of each.
            Or a folder, `hf:ORG/NAME[@REVISION]`, `timm:MODEL`, or `URL#sha256=HEX`: fetched when the spec is planned.
        select: prefix of the encoder to take where a file holds several.
        normalization: the input normalisation, where the file's own would be guessed wrong.
        arch: what no shape of the file tells of its architecture, `num_heads=12`, or a model of timm's.
        backbone, init: `{backbone: resnet50, init: random}`.
        seeds: draws of the random initialisation; when not given, each evaluation seed draws its own weights.
    """

    file: str | None = None
    select: str | None = None
    normalization: str | dict[str, Any] | None = None
    arch: str | None = None
    backbone: str | None = None
    init: Literal["random"] | None = None
    seeds: Seeds | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.file is None) == (self.backbone is None):
            raise ValueError("give either 'file: PATH' or 'backbone: NAME' with 'init: random'")
        if self.backbone is not None and self.init is None:
            raise ValueError("a backbone without a file needs 'init: random'")
        if self.file is not None and (self.init or self.seeds):
            raise ValueError("'init' and 'seeds' belong to a backbone at random initialisation, not to a file")
        if self.backbone is not None and (self.select or self.normalization or self.arch):
            raise ValueError("'select', 'normalization' and 'arch' belong to a file")
        return self


class EvaluateEntry(Settings):
    """One evaluation of every checkpoint (or of those named in `checkpoints`).

    Attributes:
        task, data: what to measure, on which set of the catalog.
        protocol: the task's default when not given.
        seeds: one run each.
        set: changes to the protocol, keys may be dotted.
        checkpoints: labels of `pretrain` and `checkpoints`; all when not given.
        resources: what its jobs ask of SLURM, over `launch`.
        every_epochs: measure the pretraining's intermediate checkpoints too, one every so many epochs.
        pack: how many of these runs share one SLURM job; the campaign's `launch.pack` when not given.
    """

    task: str
    data: str
    protocol: str | None = None
    seeds: Seeds = Field(default=(0,), min_length=1)
    set: dict[str, Any] = {}
    checkpoints: tuple[str, ...] | None = None
    every_epochs: int | None = Field(default=None, ge=1)
    pack: int | None = Field(default=None, ge=1, le=32)
    resources: Resources = Resources()


class Launch(Settings):
    """Where and how the campaign runs. Nothing here changes a run's id.

    Attributes:
        cluster: SLURM, worker processes on this machine ("local"), or all in one process ("debug").
        device: where runs compute; auto takes a GPU if there is one.
        workers: runs at a time of the local launcher; one a GPU, or one, when not given.
        pack: evaluations of one checkpoint that share a SLURM job.
        target_min: minutes of estimated work that evaluations of one checkpoint share a job for, in place of `pack`.
        array: whether runs that ask for the same are submitted as one job array ("auto") or each by itself ("never").
        max_running: SLURM jobs of this campaign that may run at the same time.
        retry: what is tried again, and how often.
        on_end: a shell command for when all runs have ended; FASTMOCO_CAMPAIGN, FASTMOCO_STATE (done or failed),
            FASTMOCO_COUNTS, FASTMOCO_ROOT and FASTMOCO_DONE, FASTMOCO_FAILED ... are in its environment.
        site: a profile of the user's sites file.
        slurm: what every job asks for; `nodes`, `gpus_per_node` and `tasks_per_node` are those of a pretraining, an
            evaluation takes one process on one node and at most one GPU unless `tasks` says otherwise.
        tasks: what the jobs of one task ask for, over `slurm`.
    """

    cluster: Literal["debug", "local", "slurm"] = "local"
    workers: int | None = Field(default=None, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    pack: int = Field(default=1, ge=1, le=32)
    target_min: float | None = Field(default=None, gt=0)
    array: Literal["auto", "never"] = "auto"
    max_running: int | None = Field(default=None, ge=1)
    retry: Retry = Retry()
    on_end: str | None = None
    site: str | None = None
    slurm: SharedResources = SharedResources()
    tasks: dict[str, Resources] = {}

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: dict[str, Resources]) -> dict[str, Resources]:
        return _known_tasks(tasks)


class Hints(Settings):
    """Figures for the estimate of `plan`, where no run of the same kind tells yet.

    Attributes:
        step_s: pretraining label -> seconds a step takes on its resources.
        wall_s: task -> seconds one of its runs takes.
        mem_gb: task -> memory its runs need, which their jobs ask for where nothing else says.
    """

    step_s: dict[str, float] = {}
    wall_s: dict[str, float] = {}
    mem_gb: dict[str, float] = {}


class CampaignSpec(Settings):
    """A campaign: a graph of pretraining runs and of evaluations of what they, and others, have made.

    Attributes:
        name: of the campaign; its tables and plan lie under it.
        pretrain: label -> what to pretrain.
        checkpoints: label -> weights that are there already.
        evaluate: what is measured on all of them.
        launch: where and how; changes no result.
        tables: tables to make when all is done, by name or file.
        estimate: figures for `plan` that nothing measured tells yet.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    pretrain: dict[str, PretrainEntry] = {}
    checkpoints: dict[str, CheckpointEntry] = {}
    evaluate: tuple[EvaluateEntry, ...] = ()
    launch: Launch = Launch()
    tables: tuple[str, ...] = ("summary",)
    estimate: Hints = Hints()


@dataclass(frozen=True)
class SpecFile:
    """A spec and where each of its keys stands, so that what is found wrong later can still name the line."""

    spec: CampaignSpec
    path: Path
    lines: dict[Path_, int]

    @contextmanager
    def at(self, *key: str | int) -> Iterator[None]:
        """InputErrors of the block get the file and the line of `key` in front."""
        try:
            yield
        except InputError as error:
            if str(error).startswith(f"{self.path}:"):  # an inner block knew the line better
                raise
            while key and key not in self.lines:
                key = key[:-1]
            raise InputError(f"{self.path}:{self.lines.get(key, 1)}: {error}") from None

    def resolve(self, relative: str) -> Path:
        """A path of the spec: `~` expanded, relative to the spec's folder."""
        return (self.path.parent / Path(relative).expanduser()).absolute()


def load_spec(path: Path) -> SpecFile:
    """Read and check a spec.

    Raises:
        InputError: no such file, not YAML, an unknown key or a wrong value; it names file and line.
    """
    path = Path(path)
    value, lines = load_yaml(path)
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: a campaign spec is a mapping that begins with 'name:', this file holds {value!r:.60}"
        )
    file = SpecFile(validate(CampaignSpec, value, path=path, lines=lines), path, lines)
    _check_references(file)
    return file


def _check_references(file: SpecFile) -> None:
    spec = file.spec
    for label in spec.checkpoints:
        with file.at("checkpoints", label):
            if label in spec.pretrain:
                raise InputError(f"'{label}' names both a pretraining and a checkpoint")
    labels = [*spec.pretrain, *spec.checkpoints]
    for index, entry in enumerate(spec.evaluate):
        with file.at("evaluate", index, "task"):
            if entry.task not in TASKS:
                raise unknown("task", entry.task, TASKS)
        for label in entry.checkpoints or ():
            with file.at("evaluate", index, "checkpoints"):
                if label not in labels:
                    raise unknown("checkpoint", label, labels)
        with file.at("evaluate", index):
            if not labels:
                raise InputError("there is nothing to evaluate: the spec has neither 'pretrain' nor 'checkpoints'")
    with file.at():
        if not spec.pretrain and not spec.evaluate:
            raise InputError("the spec asks for no run: give 'pretrain', or 'checkpoints' and 'evaluate'")


def _known_tasks(tasks: dict[str, Resources]) -> dict[str, Resources]:
    for task in tasks:
        if task not in KINDS:
            raise ValueError(str(unknown("task", task, KINDS)))
    return tasks
