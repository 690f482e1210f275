"""The text of the batch scripts: the site's options, its containers and modules, and paths with awkward characters."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.campaign.spec import Resources
from benchmarks.launch.ledger import MARK
from benchmarks.launch.script import script_text
from benchmarks.run.rundir import root_tag
from benchmarks.start import python_command

THE_MARK = "fastmoco:0123abcd:0123456789"


@pytest.fixture(autouse=True)
def _srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """submitit looks for srun, which a machine without SLURM has not."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def script(folder: str = "/data/jobs/x", array: tuple[int, ...] = (), **resources: Any) -> str:
    return script_text(
        Resources(nodes=1, timeout_min=10, signal_delay_s=90, **resources),
        mark=THE_MARK,
        folder=Path(folder),
        module="benchmarks.launch.element",
        arguments=(folder,),
        array=(array, None) if array else None,
    )


def options(text: str) -> list[str]:
    """What sbatch reads, without what no option of the site changes."""
    found = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    ours = ("error=", "output=", "open-mode=", "nodes=", "signal=", "time=")
    return sorted(line for line in found if not line.startswith(ours))


def command(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    return shlex.split(line)


def test_the_whole_script() -> None:
    assert (
        script(mem_gb=1.5, partition="gpu", gpus_per_node=1, cpus_per_task=6)
        == f"""#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=6
#SBATCH --error=/data/jobs/x/%j_0_log.err
#SBATCH --gpus-per-node=1
#SBATCH --job-name={THE_MARK}
#SBATCH --mem=1536M
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/data/jobs/x/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /data/jobs/x/%j_%t_log.out --error /data/jobs/x/%j_%t_log.err --cpus-per-task=6 \
{shlex.join(python_command("benchmarks.launch.element", "/data/jobs/x"))}
"""
    )


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, [f"job-name={THE_MARK}", "requeue"]),
        ({"requeue": False}, [f"job-name={THE_MARK}", "no-requeue"]),
        ({"no-requeue": True}, [f"job-name={THE_MARK}", "no-requeue"]),
        ({"no_requeue": True}, [f"job-name={THE_MARK}", "no-requeue"]),
        ({"no-requeue": False}, [f"job-name={THE_MARK}", "requeue"]),
        ({"requeue": None}, [f"job-name={THE_MARK}"]),
        ({"requeue": True}, [f"job-name={THE_MARK}", "requeue"]),
        ({"wckey": None}, [f"job-name={THE_MARK}", "requeue"]),
        ({"wckey": "lab7"}, [f"job-name={THE_MARK}", "requeue", "wckey=lab7"]),
        ({"job-name": "p123_{mark}"}, [f"job-name=p123_{THE_MARK}", "requeue"]),
        ({"job_name": "p123"}, [f"comment={THE_MARK}", "job-name=p123", "requeue"]),
        ({"job-name": "p123", "comment": "x {mark}"}, [f"comment='x {THE_MARK}'", "job-name=p123", "requeue"]),
        ({"job-name": None}, [f"job-name={THE_MARK}", "requeue"]),
        ({"exclusive": True, "nice": 0}, ["exclusive", f"job-name={THE_MARK}", "nice=0", "requeue"]),
        ({"hold": False}, [f"job-name={THE_MARK}", "requeue"]),
        ({"--reservation": "night"}, [f"job-name={THE_MARK}", "requeue", "reservation=night"]),
        (
            {"mail-type": "END,FAIL", "mail-user": "me@lab.org"},
            [f"job-name={THE_MARK}", "mail-type=END,FAIL", "mail-user=me@lab.org", "requeue"],
        ),
    ],
)
def test_the_options_of_a_site(given: dict[str, Any], written: list[str]) -> None:
    assert options(script(options=given)) == written


def test_a_job_whose_name_and_comment_are_the_sites_is_found_by_its_id_alone() -> None:
    text = script(options={"job-name": "p123", "comment": "budget 7"})
    assert options(text) == ["comment='budget 7'", "job-name=p123", "requeue"]
    assert MARK.search("\n".join(options(text))) is None


def test_options_of_the_spec_join_those_of_the_site() -> None:
    site = Resources(options={"wckey": "lab7", "requeue": False})
    own = Resources(options={"wckey": None, "nice": 3})
    assert own.over(site).options == {"wckey": None, "requeue": False, "nice": 3}


@pytest.mark.parametrize("name", ["array", "wrap", "--array", "test_only", "parsable", "wait"])
def test_options_by_which_runs_would_be_lost_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="is not an option to give here"):
        Resources(options={name: "x"})


def test_percent_signs_and_spaces_in_a_root_are_no_patterns() -> None:
    text = script("/data/100% of %j/x", array=(0, 1, 5))
    lines = text.splitlines()
    assert "#SBATCH --output='/data/100%% of %%j/x/%A_%a_0_log.out'" in lines
    assert "#SBATCH --error='/data/100%% of %%j/x/%A_%a_0_log.err'" in lines
    assert "#SBATCH --array=0-1,5" in lines
    words = command(text)
    assert words[words.index("--output") + 1] == "/data/100%% of %%j/x/%A_%a_%t_log.out"
    assert words[-1] == "/data/100% of %j/x"  # to Python it is a path and nothing else


def test_a_container_by_its_python() -> None:
    words = command(script(python="apptainer exec --nv /images/fast.sif python"))
    start = words.index("apptainer")
    run = "python -P -u -m benchmarks.launch.element /data/jobs/x"
    assert words[start:] == f"apptainer exec --nv /images/fast.sif {run}".split()


def test_a_container_by_an_argument_of_srun() -> None:
    container = ("--container-image=/images/fast moco.sqsh", "--container-mounts=/data:/data")
    words = command(script(srun=container))
    assert [word for word in words if word.startswith("--container")] == list(container)


def test_modules_and_environments_are_set_up_in_order_before_the_run() -> None:
    setup = ("module load cuda/12.4", "source ~/miniforge3/bin/activate fastmoco")
    lines = script(setup=setup).splitlines()
    start = lines.index(setup[0])
    assert lines[start + 1] == setup[1]
    assert start + 1 < lines.index(next(line for line in lines if line.startswith("srun ")))


def test_two_roots_have_two_tags(tmp_path: Path) -> None:
    assert MARK.fullmatch(f"fastmoco:{root_tag(tmp_path)}:0123456789")
