"""The text of a batch script: submitit writes it, from what the campaign, the site and the run ask for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from benchmarks.campaign.spec import Resources
from benchmarks.launch.jobs import ranges
from benchmarks.start import python_command

# Stands for the folder of the job's files, whose real name may hold what SLURM or submitit would take for a pattern.
_FOLDER = "/@folder@"


def script_text(
    resources: Resources,
    *,
    mark: str,
    folder: Path,
    module: str,
    arguments: tuple[str, ...],
    dependency: str = "",
    array: tuple[tuple[int, ...], int | None] | None = None,
    name: str | None = None,
) -> str:
    """A batch script that runs a module of ours.

    Args:
        mark: by which the job is found again; its name, or where the site wants another name, its comment.
        folder: for its output.
        array: indices, and how many of them may run at a time.
        name: of a job that is found by its comment alone.
    """
    options = dict(resources.options or {})
    indices, at_a_time = array if array is not None else ((), None)
    extra, absent = _options(options, mark, name)
    if dependency:
        # Without kill-on-invalid-dep a job whose need has failed would stay pending for ever.
        given = extra.get("dependency")
        extra |= {"dependency": f"{dependency},{given}" if given else dependency, "kill-on-invalid-dep": "yes"}
    if resources.mem_gb is not None:
        extra.setdefault("mem", f"{round(resources.mem_gb * 1024)}M")
    if indices:
        extra["array"] = ranges(indices) + (f"%{at_a_time}" if at_a_time else "")
    executor = SlurmExecutor(folder=_FOLDER)
    executor.update_parameters(**_parameters(resources, extra))
    if indices:
        executor.parameters["map_count"] = len(indices)
    start = [*shlex.split(resources.python), "-P", "-u", "-m", module] if resources.python else python_command(module)
    text = executor._make_submission_file_text(shlex.join([*start, *arguments]), "")
    lines = [line for line in text.splitlines() if _option_of(line) not in absent]
    real = str(Path(folder).absolute()).replace("%", "%%")
    return re.sub(rf"{_FOLDER}(/\S*)", lambda found: shlex.quote(real + found[1]), "\n".join(lines)) + "\n"


def _options(options: dict[str, Any], mark: str, name: str | None) -> tuple[dict[str, Any], set[str]]:
    """What is written of the site's own options, and what is taken away."""
    if options.get("requeue") is False or options.get("no-requeue") is True:
        options |= {"requeue": None, "no-requeue": True}
    else:
        options = {"requeue": True, **options}
        if options.get("no-requeue") is False:
            options["no-requeue"] = None
    # submitit's name for accounts nobody has asked for.
    options = {"wckey": None, "job-name": name or "{mark}", **options}
    if options["job-name"] is None:
        options["job-name"] = "{mark}"
    if "{mark}" not in str(options["job-name"]) and "comment" not in options:
        options["comment"] = "{mark}"
    for key in ("job-name", "comment"):
        if isinstance(options.get(key), str):
            options[key] = options[key].replace("{mark}", mark)
    written = {key: value for key, value in options.items() if value is not None and value is not False}
    return written, {key for key in options if key not in written}


def _parameters(resources: Resources, extra: dict[str, Any]) -> dict[str, Any]:
    srun = list(resources.srun or ())
    if resources.cpus_per_task:  # SLURM 22.05 and later no longer hand a job's --cpus-per-task on to srun
        srun.insert(0, f"--cpus-per-task={resources.cpus_per_task}")
    values: dict[str, Any] = {
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "cpus_per_task": resources.cpus_per_task,
        "time": resources.timeout_min,
        "signal_delay_s": resources.signal_delay_s,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "setup": list(resources.setup) if resources.setup else None,
        # submitit spells its own with underscores; a second line of the same option would win by its place alone.
        "additional_parameters": {_spelling(key): value for key, value in extra.items()},
        "srun_args": srun or None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _spelling(key: str) -> str:
    underscored = key.replace("-", "_")
    return underscored if underscored in _WITH_UNDERSCORES else key


_WITH_UNDERSCORES = {
    "job_name",
    "ntasks_per_node",
    "cpus_per_task",
    "cpus_per_gpu",
    "gpus_per_node",
    "gpus_per_task",
    "mem_per_gpu",
    "mem_per_cpu",
    "mail_type",
    "mail_user",
}


def _option_of(line: str) -> str | None:
    found = re.match(r"#SBATCH --([a-z-]+)", line)
    return found[1] if found else None
