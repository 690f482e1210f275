"""Campaigns on a real SLURM: nothing is lost, and every run is computed once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.xdist_group("slurm")]

# 128 images in batches of 32: 4 steps an epoch.
SMALL = (
    "global_batch_size: 32, train_images: null, warmup_epochs: 0, log_every_steps: 1, save_every_steps: 4, "
    "views.size: 16, projector.hidden: 32, predictor.hidden: 32"
)


def pretraining(epochs: int, *, resources: str = "{}", extra: str = "") -> str:
    return f"""
pretrain:
  method: {{recipe: shapes_demo, data: tiny, set: {{epochs: {epochs}, {SMALL}{extra}}}, resources: {resources}}}
"""


KNN = "evaluate: [{task: knn, data: tiny}]\n"
LAUNCH = "launch: {slurm: {timeout_min: 10}}\n"


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_whole(commands: Any, steps: int) -> None:
    """Every run has its result, and the pretraining's curve has every step once."""
    assert commands.runs()
    for run in commands.runs():
        assert (run / "result.json").exists(), (run.name, (run / "log.txt").read_text()[-2000:])
        assert not (run / "failed.json").exists()
    (pretrain,) = commands.runs("pretrain-")
    assert steps_of(pretrain) == list(range(1, steps + 1))


def test_a_campaign_from_end_to_end_and_again(commands: Any) -> None:
    spec = commands.spec(
        "name: whole\n" + pretraining(2) + "checkpoints: {random: {backbone: cifar_resnet20, init: random}}\n"
        "evaluate:\n  - {task: knn, data: tiny, seeds: [0, 1]}\n"
        "launch: {pack: 2, slurm: {timeout_min: 10}}\n"
    )
    told = commands.submit(spec)
    assert "submitted 5 runs in 3 jobs" in told
    commands.finish(tables=True)
    assert_whole(commands, 8)
    assert commands.starts() == [1] * 5
    table = (commands.root / "campaigns" / "whole" / "tables" / "summary.md").read_text()
    assert "method" in table
    assert "random" in table
    assert "nothing to submit: 5 done" in commands.submit(spec)
    assert not commands.queued()


def test_two_nodes_train_together(commands: Any) -> None:
    spec = commands.spec("name: ddp\n" + pretraining(2, resources="{nodes: 2, tasks_per_node: 1}") + KNN + LAUNCH)
    commands.submit(spec)
    commands.finish()
    assert_whole(commands, 8)


def test_a_signal_queues_the_job_again(commands: Any) -> None:
    spec = commands.spec("name: requeue\n" + pretraining(8) + KNN + LAUNCH)
    commands.submit(spec)
    commands.wait_for_steps("pretrain-", 3)
    job = commands.job("pretrain-")
    commands.cluster.ask("scancel", "--signal=USR2", job)
    commands.finish()
    assert_whole(commands, 32)
    assert commands.starts("pretrain-") == [2]
    assert commands.starts("knn-") == [1]


def test_scancel_of_a_running_job_then_run_again(commands: Any) -> None:
    spec = commands.spec("name: cancelled\n" + pretraining(8) + KNN + LAUNCH)
    commands.submit(spec)
    commands.wait_for_steps("pretrain-", 3)
    commands.run("campaign", "cancel", str(spec), "pretrain-", "--root", str(commands.root))
    commands.finish()
    status = commands.run("campaign", "status", str(spec), "--root", str(commands.root)).stdout
    assert "cancelled" in status
    assert "skipped" in status
    assert "submitted 2 runs in 2 jobs" in commands.submit(spec)
    commands.finish()
    assert_whole(commands, 32)


def test_who_watches_resubmits_what_the_site_cancels_but_not_what_people_cancel(commands: Any) -> None:
    spec = commands.spec("name: watched\n" + pretraining(40) + KNN + LAUNCH)
    words = (str(spec), "--root", str(commands.root))
    watcher = commands.start("campaign", "run", *words, "--cluster", "slurm", "--watch")
    commands.wait_for_steps("pretrain-", 3)
    (run,) = commands.runs("pretrain-")
    first = commands.job("pretrain-")
    commands.cluster.ask("scancel", first)
    commands.cluster.wait(lambda: commands.starts("pretrain-") == [2], "the second start", 90)
    assert commands.job("pretrain-") != first
    commands.wait_for_steps("pretrain-", len(steps_of(run)) + 2)
    commands.run("campaign", "cancel", *words)
    _, told = watcher.communicate(timeout=90)
    assert watcher.returncode == 0, told
    commands.finish()
    assert "2 cancelled" in commands.run("campaign", "status", *words).stdout
    assert "submitted 2 runs in 2 jobs" in commands.submit(spec)
    commands.finish()
    assert_whole(commands, 160)
    assert commands.starts("pretrain-") == [3]


def test_two_roots_of_one_spec_are_two_campaigns(commands: Any) -> None:
    spec = commands.spec("name: twice\n" + pretraining(20) + KNN + LAUNCH)
    assert "submitted 2 runs" in commands.submit(spec)
    other = str(commands.folder / "other")
    told = commands.run("campaign", "run", str(spec), "--root", other, "--cluster", "slurm").stderr
    assert "submitted 2 runs" in told
    commands.run("campaign", "cancel", str(spec), "--root", other)
    commands.finish()
    assert_whole(commands, 80)


def test_a_node_dies_under_a_run(commands: Any) -> None:
    spec = commands.spec("name: nodefail\n" + pretraining(10) + KNN + LAUNCH)
    commands.submit(spec)
    commands.wait_for_steps("pretrain-", 3)
    job = commands.job("pretrain-")
    node = commands.cluster.ask("squeue", "-h", "-j", job, "-o", "%N").strip()
    workers = [
        json.loads(line)["pid"] for line in (commands.runs("pretrain-")[0] / "attempts.jsonl").read_text().splitlines()
    ]
    # A machine that dies takes its daemon, the job's steps and the worker with it.
    commands.cluster.stop_process(node, kill=True)
    for line in subprocess.run(
        ["pgrep", "-f", f"slurmstepd: .{job}\\."], capture_output=True, text=True
    ).stdout.split():
        os.kill(int(line), signal.SIGKILL)
    os.kill(workers[-1], signal.SIGKILL)
    time.sleep(1)
    commands.cluster.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=dead")
    commands.cluster.start_node(int(node.removeprefix("node")))
    commands.finish()
    assert_whole(commands, 40)


def test_the_controller_is_restarted(commands: Any) -> None:
    spec = commands.spec("name: controller\n" + pretraining(150) + KNN + LAUNCH)
    commands.submit(spec)
    commands.wait_for_steps("pretrain-", 2)
    commands.cluster.stop_process("slurmctld")
    # Each question to a controller that is away takes 9 s by itself: the run must not end while several are asked.
    commands.environment["FASTMOCO_SLURM_PATIENCE_S"] = "1"
    assert "running" in commands.run("campaign", "status", str(spec), "--root", str(commands.root)).stdout
    commands.cluster.start_controller()
    commands.finish()
    assert_whole(commands, 600)
    assert commands.starts() == [1, 1]


def test_one_evaluation_fails_among_good_ones(commands: Any) -> None:
    torn = commands.folder / "torn" / "a" / "torn.jpg"
    for split in ("torn/a", "torn/b"):
        (commands.folder / split).mkdir(parents=True)
        (commands.folder / split / "torn.jpg").write_bytes(b"no image")
    with (commands.folder / "catalog.yaml").open("a") as catalog:
        catalog.write("torn: {format: imagefolder, train: torn, test: torn}\n")
    spec = commands.spec(
        "name: failing\ncheckpoints: {random: {backbone: cifar_resnet20, init: random}}\n"
        "evaluate: [{task: knn, data: tiny}, {task: knn, data: torn}]\nlaunch: {pack: 2, slurm: {timeout_min: 10}}\n"
    )
    commands.submit(spec)
    commands.finish()
    (good,), (bad,) = commands.runs("-tiny-"), commands.runs("-torn-")
    assert (good / "result.json").exists()
    assert str(torn) in json.loads((bad / "failed.json").read_text())["error"]
    status = commands.run("campaign", "status", str(spec), "--root", str(commands.root)).stdout
    assert "1 done, 1 failed" in status


def test_dependants_of_a_failed_run_do_not_stay_pending(commands: Any) -> None:
    spec = commands.spec(
        "name: broken\n" + pretraining(2).replace("train_images: null", "train_images: 999") + KNN + LAUNCH
    )
    commands.submit(spec)
    commands.finish()
    status = commands.run("campaign", "status", str(spec), "--root", str(commands.root)).stdout
    assert "1 failed, 1 skipped" in status


def test_two_people_submit_at_the_same_moment(commands: Any) -> None:
    spec = commands.spec("name: both\n" + pretraining(1) + KNN + LAUNCH)
    words = ("campaign", "run", str(spec), "--root", str(commands.root), "--cluster", "slurm")
    both = [commands.start(*words), commands.start(*words)]
    told = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sum("submitted 2 runs" in text for text in told) == 1, told
    commands.finish()
    assert_whole(commands, 4)
    assert commands.starts() == [1, 1]


def test_two_hundred_runs(commands: Any) -> None:
    seeds = list(range(200))
    spec = commands.spec(
        "name: many\ncheckpoints: {random: {backbone: cifar_resnet20, init: random}}\n"
        f"evaluate: [{{task: knn, data: tiny, seeds: {seeds}}}]\n"
        "launch: {pack: 1, max_running: 1, slurm: {timeout_min: 10}}\n"
    )
    root = str(commands.root)
    began = time.monotonic()
    commands.run("campaign", "plan", str(spec), "--root", root)
    plan_s = time.monotonic() - began
    began = time.monotonic()
    commands.submit(spec)
    submit_s = time.monotonic() - began
    status_s = 9.0
    for _ in range(3):  # the best of three: other work on the machine is no fault of the command
        began = time.monotonic()
        commands.run("campaign", "status", str(spec), "--root", root)
        status_s = min(status_s, time.monotonic() - began)
    print(f"plan {plan_s:.2f} s, submission {submit_s / 200:.3f} s a run, status {status_s:.2f} s")
    running = [line for line in commands.queued() if "RUNNING" in line]
    assert len(running) <= 1
    waiting = [line for line in commands.queued() if "fastmoco:" in line]
    assert len(waiting) >= 150  # the first have been done by now
    assert len({line.rpartition("|")[2] for line in waiting}) == 200 / commands.max_array_size  # so many arrays
    assert "nothing to submit" in commands.submit(spec)


# What a job starts in place of Python and the suite: the runs of its element are done in a second.
QUICK = """
import json, os, sys, time
from pathlib import Path

batch = json.loads((Path(sys.argv[-1]) / "batch.json").read_text())
for run in map(Path, batch["elements"][os.environ.get("SLURM_ARRAY_TASK_ID", "0")]):
    with (run / "attempts.jsonl").open("a") as stream:
        stream.write('{"event": "start", "at": "2026-01-01T00:00:00+00:00"}\\n')
    time.sleep(1)
    described = {"protocol": {"name": "dino"}, "data": {"name": "tiny"}, "seed": 0, "wall_s": 1.0}
    described |= {"run_id": run.name, "kind": "evaluate", "task": "knn"}
    (run / "result.json").write_text(
        json.dumps({"run": described, "metrics": [{"name": "top1", "value": 50.0, "unit": "%"}]})
    )
"""
# A command of SLURM that fails one time in five, every other time after it has done what it was asked.
FLAKY = """
import fcntl, os, subprocess, sys
from pathlib import Path

command = Path(sys.argv[0])
with command.with_suffix(".calls").open("a+") as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    stream.write(".")
    stream.flush()
    call = os.fstat(stream.fileno()).st_size
os.environ["PATH"] = os.environ["PATH"].partition(":")[2]
if call % 5 != 2:
    os.execvp(command.name, [command.name, *sys.argv[1:]])
if call % 2:
    subprocess.run([command.name, *sys.argv[1:]], stdout=subprocess.DEVNULL)
sys.exit(f"{command.name}: error: Socket timed out on send/recv operation")
"""


def quick_runs(commands: Any, name: str, count: int, launch: str) -> Path:
    """A spec of runs that take a second each."""
    (commands.folder / "quick.py").write_text(QUICK)
    python = f"{sys.executable} -IS {commands.folder}/quick.py"
    spec: Path = commands.spec(
        f"name: {name}\ncheckpoints: {{random: {{backbone: cifar_resnet20, init: random}}}}\n"
        f"evaluate: [{{task: knn, data: tiny, seeds: {list(range(count))}}}]\n"
        f"launch: {{{launch}, tasks: {{knn: {{python: {python}}}}}}}\n"
    )
    return spec


def most_queued_until(commands: Any, over: Any, timeout_s: float = 150.0) -> int:
    most = 0

    def look() -> bool:
        nonlocal most
        most = max(most, len(commands.queued()))
        return bool(over())

    commands.cluster.wait(look, "the campaign to end", timeout_s)
    return most


def test_more_runs_than_may_be_submitted_come_to_the_end_by_watch(commands: Any) -> None:
    spec = quick_runs(commands, "narrow", 60, "slurm: {partition: narrow, timeout_min: 10}")
    words = (str(spec), "--root", str(commands.root), "--cluster", "slurm")
    told = commands.run("campaign", "run", *words).stderr
    assert "submitted 20 runs in 20 jobs" in told
    assert "40 runs wait for a place in the queue (QOSMaxSubmitJobPerUserLimit" in told
    watcher = commands.start("campaign", "run", *words, "--watch")
    most = most_queued_until(commands, lambda: watcher.poll() is not None)
    _, told = watcher.communicate()
    assert watcher.returncode == 0, told
    assert most <= commands.submit_limit
    assert commands.starts() == [1] * 60


def test_more_runs_than_may_be_submitted_come_to_the_end_by_the_feeder(commands: Any) -> None:
    spec = quick_runs(commands, "fed", 45, "slurm: {partition: narrow, timeout_min: 10}")
    words = (str(spec), "--root", str(commands.root), "--cluster", "slurm")
    told = commands.run("campaign", "run", *words, "--feeder").stderr
    assert "submitted 19 runs in 19 jobs" in told  # the feeder's own job has the twentieth place
    most = most_queued_until(commands, lambda: not commands.queued())
    assert most <= commands.submit_limit
    assert commands.starts() == [1] * 45
    assert (commands.root / "campaigns" / "fed" / "tables" / "summary.md").exists()


def test_commands_that_fail_one_time_in_five(commands: Any) -> None:
    flaky = commands.folder / "flaky"
    flaky.mkdir()
    for name in ("sbatch", "squeue"):
        (flaky / name).write_text(f"#!{sys.executable} -IS\n{FLAKY}")
        (flaky / name).chmod(0o755)
    commands.environment["PATH"] = f"{flaky}:{commands.cluster.environment['PATH']}"
    spec = quick_runs(commands, "flaky", 20, "array: never, slurm: {timeout_min: 10}")
    words = (str(spec), "--root", str(commands.root), "--cluster", "slurm")
    told = commands.run("campaign", "run", *words, "--watch").stderr
    assert "submitted 20 runs in 20 jobs" in told
    assert (flaky / "sbatch.calls").stat().st_size >= 20
    assert commands.starts() == [1] * 20
    assert not commands.queued()


def test_a_partition_that_does_not_exist(commands: Any) -> None:
    spec = commands.spec("name: bad\n" + pretraining(1) + KNN + "launch: {slurm: {partition: nowhere}}\n")
    words = ("campaign", "run", str(spec), "--root", str(commands.root), "--cluster", "slurm")
    told = commands.run(*words, expect=2).stderr
    assert "invalid partition specified: nowhere" in told
    assert not commands.queued()


def test_more_gpus_than_nodes_have(commands: Any) -> None:
    spec = commands.spec("name: bad\n" + pretraining(1) + KNN + "launch: {slurm: {gpus_per_node: 8}}\n")
    words = ("campaign", "run", str(spec), "--root", str(commands.root), "--cluster", "slurm")
    told = commands.run(*words, expect=2).stderr
    assert "SLURM refuses the job of pretrain-" in told
    assert "Traceback" not in told
    assert not commands.queued()


def test_a_time_limit_is_hit_twice(commands: Any) -> None:
    # SLURM looks at time limits every half a minute or so: the signal comes 5 to 55 s after a start.
    launch = "launch: {slurm: {partition: short, timeout_min: 1, signal_delay_s: 55}}\n"
    spec = commands.spec("name: limit\n" + pretraining(1500) + launch)
    commands.submit(spec)

    def started(times: int) -> bool:
        return any(path.joinpath("attempts.jsonl").exists() for path in commands.runs()) and commands.starts() >= [
            times
        ]

    commands.cluster.wait(lambda: started(3), "the third start", 150)
    (run,) = commands.runs()
    commands.wait_for_steps("pretrain-", steps_of(run)[-1] + 2)
    steps = steps_of(run)
    assert steps == list(range(1, len(steps) + 1))
    job = commands.job("pretrain-")
    assert job in "".join(commands.queued())  # it is the same job, queued again each time
    status = commands.run("campaign", "status", str(spec), "--root", str(commands.root)).stdout
    assert "running" in status
    assert " 2 " in status


def test_a_preempted_run_goes_on(commands: Any) -> None:
    spec = commands.spec(
        "name: preempted\n" + pretraining(60) + "launch: {slurm: {partition: cheap, timeout_min: 10}}\n"
    )
    commands.submit(spec)
    commands.wait_for_steps("pretrain-", 3)
    cores = ["--exclusive", "--nodes=3", "--ntasks-per-node=1", "--partition=dear", "--output=/dev/null"]
    commands.cluster.ask("sbatch", *cores, "--wrap=sleep 3")
    commands.cluster.wait(lambda: commands.starts() == [2], "the run to go on", 90)
    commands.finish()
    assert_whole(commands, 240)


def test_a_site_that_keeps_no_accounts(commands_without_accounts: Any) -> None:
    commands = commands_without_accounts
    spec = commands.spec("name: bare\n" + pretraining(40) + KNN + LAUNCH)
    commands.submit(spec)
    commands.wait_for_steps("pretrain-", 3)
    words = (str(spec), "--root", str(commands.root))
    assert "1 running, 1 pending" in commands.run("campaign", "status", *words).stdout
    commands.run("campaign", "cancel", *words)
    commands.finish()
    assert "2 cancelled" in commands.run("campaign", "status", *words).stdout
    assert "submitted 2 runs" in commands.submit(spec)
    commands.finish()
    assert_whole(commands, 160)
