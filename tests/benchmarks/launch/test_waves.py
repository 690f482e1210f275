"""Campaigns under limits, flaky commands and refusals: what is submitted, what waits, and that nothing is twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from benchmarks.campaign.opened import Campaign
from benchmarks.launch import ask, submit
from benchmarks.launch.explain import print_explanation
from benchmarks.launch.session import cancel_runs
from benchmarks.launch.submit import submit_campaign
from benchmarks.run.process import read_failure, write_failure
from benchmarks.run.rundir import note_cancelled, run_dir
from pretrain.runtime.errors import InputError, RunFailedError


def evaluations(seeds: int, launch: str = "{}") -> str:
    return (
        "name: many\ncheckpoints: {random: {backbone: cifar_resnet20, init: random}}\n"
        f"evaluate: [{{task: knn, data: tiny, seeds: {list(range(seeds))}}}]\nlaunch: {launch}\n"
    )


def pretrainings(seeds: int, evaluations: int, launch: str = "{}") -> str:
    return (
        f"name: many\npretrain: {{m: {{recipe: shapes_demo, data: tiny, seeds: {list(range(seeds))}}}}}\n"
        f"evaluate: [{{task: knn, data: tiny, seeds: {list(range(evaluations))}}}]\nlaunch: {launch}\n"
    )


def shorts(campaign: Campaign) -> Counter[str]:
    return Counter(run.request.short() for run in campaign.plan.runs)


def test_runs_that_ask_for_the_same_are_one_array(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    campaign = fake.campaign(evaluations(30, "{max_running: 4}"))
    with caplog.at_level("INFO"):
        submit_campaign(campaign)
    array, tables = fake.jobs.values()
    assert array["options"]["array"] == "0-29%4"
    assert tables["options"]["dependency"] == f"afterany:{array['id']}"
    assert tables["options"]["job-name"] == "fastmoco-tables-many"
    assert "submitted 30 runs in 30 jobs by 2 calls of sbatch" in caplog.text
    assert Counter(fake.submitted(campaign)) == shorts(campaign)
    calls = fake.calls("sbatch")
    submit_campaign(campaign)
    assert fake.calls("sbatch") == calls


def test_evaluations_follow_pretrainings_element_by_element(fake: Any) -> None:
    campaign = fake.campaign(pretrainings(5, 2))
    submit_campaign(campaign)
    first, *others, _ = fake.jobs.values()
    assert first["options"]["array"] == "0-4"
    assert [job["options"]["dependency"] for job in others] == [f"aftercorr:{first['id']}"] * 2
    for job in others:
        for index in range(5):
            (needed,) = fake.runs_of(f"{first['id']}_{index}")
            (run,) = fake.runs_of(f"{job['id']}_{index}")
            assert campaign.plan.run(run.name).needs == (needed.name,)
    assert Counter(fake.submitted(campaign)) == shorts(campaign)


def test_many_evaluations_of_few_pretrainings_wait_for_their_element(fake: Any) -> None:
    campaign = fake.campaign(pretrainings(2, 9))
    submit_campaign(campaign)
    first, *others, _ = fake.jobs.values()
    assert [job["options"]["dependency"] for job in others] == [f"afterok:{first['id']}_{i}" for i in (0, 1)]
    assert [job["options"]["array"] for job in others] == ["0-8", "0-8"]


def test_a_thousand_runs_are_a_few_calls_within_the_largest_array(fake: Any) -> None:
    fake.configure(max_array=401)
    campaign = fake.campaign(evaluations(1000))
    submit_campaign(campaign)
    assert [job["options"].get("array") for job in fake.jobs.values()] == ["0-400", "0-400", "0-197", None]
    assert Counter(fake.submitted(campaign)) == shorts(campaign)
    assert fake.calls("squeue") == 1


def test_a_submit_limit_makes_the_rest_wait(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    fake.configure(limit=8)
    campaign = fake.campaign(evaluations(24))
    with caplog.at_level("INFO"):
        submit_campaign(campaign)
    assert len(fake.live()) == 8
    assert "16 runs wait for a place in the queue (QOSMaxSubmitJobPerUserLimit" in caplog.text
    waves = 0
    while live := fake.live():
        assert len(live) <= 8
        for element in live[: 5 + waves]:
            if "element" in fake.jobs[element.partition("_")[0]]["text"]:
                fake.finish(element)
            else:
                fake.end(element, "COMPLETED")
        submit_campaign(campaign)
        waves += 1
    assert Counter(fake.submitted(campaign)) == shorts(campaign)


def test_dependencies_hold_across_waves(fake: Any) -> None:
    fake.configure(limit=4)
    campaign = fake.campaign(pretrainings(6, 1))
    submit_campaign(campaign)
    assert len(fake.live()) == 4
    done: list[str] = []
    while live := fake.live():
        for element in live[:2]:
            if "element" not in fake.jobs[element.partition("_")[0]]["text"]:
                fake.end(element, "COMPLETED")
                continue
            for directory in fake.runs_of(element):
                run = campaign.plan.run(directory.name)
                options = fake.jobs[element.partition("_")[0]]["options"]
                # What an element needs is done, or stands before it in its dependency.
                assert set(run.needs) <= set(done) or "after" in options.get("dependency", "")
                done.append(directory.name)
            fake.finish(element)
        submit_campaign(campaign)
    assert sorted(done) == sorted(run.run_id for run in campaign.plan.runs)


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Slurm job queue full, sleeping and retrying.",
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
        "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates QOS",
        "sbatch: error: AssocGrpSubmitJobsLimit",
    ],
)
def test_every_kind_of_full_queue_is_a_matter_of_waiting(fake: Any, words: str) -> None:
    campaign = fake.campaign(evaluations(3, "{array: never}"))
    fake.configure(says={"sbatch": [None, [1, words]]})
    submit_campaign(campaign)
    assert len(fake.live()) == 1
    submit_campaign(campaign)
    assert Counter(fake.submitted(campaign)) == shorts(campaign)


def test_a_limit_that_others_fill_unseen_is_waited_for(fake: Any) -> None:
    # squeue may hide the jobs of others: that it is empty says something of the user's own limits alone.
    campaign = fake.campaign(evaluations(1))
    for words in ("AssocGrpSubmitJobsLimit", "Slurm temporarily unable to accept job, sleeping and retrying."):
        fake.configure(says={"sbatch": [[1, f"sbatch: error: {words}"]] * 9})
        submit_campaign(campaign)
        assert not fake.live()
    fake.configure(limit=0)
    with pytest.raises(InputError, match="QOSMaxSubmitJobPerUserLimit"):
        submit_campaign(campaign)


@pytest.mark.parametrize("limit", ["QOSMaxWallDurationPerJobLimit", "QOSMinGRES", "MaxCpuPerAccount"])
def test_sizes_over_a_limit_are_refused_and_not_waited_for(fake: Any, limit: str) -> None:
    words = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    words = f"sbatch: error: {limit}\nsbatch: error: Batch job submission failed: {words}"
    fake.configure(says={"sbatch": [[1, words]]})
    with pytest.raises(InputError, match=limit):
        submit_campaign(fake.campaign(evaluations(1)))


@pytest.mark.parametrize("seed", range(2))
def test_commands_that_fail_at_random_submit_each_run_once(fake: Any, seed: int) -> None:
    draw = random.Random(seed)
    kinds = [
        [1, "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"],
        ["lost", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"],
        [1, "Unable to contact slurm controller (connect failure)"],
        [1, "something nobody has heard of"],
    ]
    says = {
        command: [
            draw.choice(kinds[: 4 if command == "sbatch" else 1]) if draw.random() < 0.3 else None for _ in range(60)
        ]
        for command in ("sbatch", "squeue", "scontrol")
    }
    fake.configure(says=says, limit=7)
    campaign = fake.campaign(evaluations(14, "{array: never}"))
    submit_campaign(campaign)
    while live := fake.live():
        for element in live[:5]:
            fake.finish(element) if "element" in fake.jobs[element]["text"] else fake.end(element, "COMPLETED")
        submit_campaign(campaign)
    # Every job that SLURM has taken is known to us, and no run was in two.
    assert Counter(fake.submitted(campaign)) == shorts(campaign)
    taken = [job for job in fake.jobs.values() if "element" in job["text"]]
    assert len(taken) == 14


def test_a_controller_that_stays_away_is_told_and_nothing_is_lost(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "PATIENCE_S", 0.05)
    silent = [1, "sbatch: error: Unable to contact slurm controller (connect failure)"]
    campaign = fake.campaign(evaluations(2, "{array: never}"))
    fake.configure(says={"sbatch": [None] + [silent] * 50})
    with pytest.raises(RunFailedError, match="1 runs are not submitted, the same command goes on"):
        submit_campaign(campaign)
    assert len(fake.live()) == 1
    fake.configure()
    submit_campaign(campaign)
    assert Counter(fake.submitted(campaign)) == shorts(campaign)


def test_a_refusal_concerns_only_its_runs(fake: Any) -> None:
    fake.configure(no_partitions=["nowhere"])
    campaign = fake.campaign(
        "name: two\ncheckpoints: {random: {backbone: cifar_resnet20, init: random}}\nevaluate:\n"
        "  - {task: knn, data: tiny, seeds: [0, 1, 2]}\n"
        "  - {task: linear, data: tiny, seeds: [0, 1], resources: {partition: nowhere}}\n"
    )
    with pytest.raises(InputError, match=r"linear-.* and 1 more: invalid partition specified: nowhere"):
        submit_campaign(campaign)
    assert len([e for e in fake.live() if "element" in fake.jobs[e.partition("_")[0]]["text"]]) == 3
    failures = [read_failure(run_dir(campaign.root, run.run_id)) for run in campaign.plan.runs]
    assert [failure is not None for failure in failures] == [False] * 3 + [True] * 2


def test_what_depends_on_a_refused_run_is_not_submitted(fake: Any) -> None:
    fake.configure(no_partitions=["nowhere"])
    campaign = fake.campaign(pretrainings(1, 1, "{tasks: {pretrain: {partition: nowhere}}}"))
    with pytest.raises(InputError, match="invalid partition"):
        submit_campaign(campaign)
    assert not fake.live()


def test_cancel_names_an_array_once_and_an_element_by_itself(fake: Any) -> None:
    campaign = fake.campaign(evaluations(5))
    submit_campaign(campaign)
    one = campaign.plan.runs[2]
    assert list(cancel_runs(campaign, [one.run_id])) == [f"{one.run_id}: cancelled job 100_2"]
    assert [e for e in fake.live() if e.startswith("100")] == [f"100_{i}" for i in (0, 1, 3, 4)]
    assert len(list(cancel_runs(campaign, []))) == 4
    assert not [e for e in fake.live() if e.startswith("100")]


def advance(campaign: Campaign) -> dict[str, int] | None:
    return submit._advance(campaign, submit.Progress())


def test_a_run_out_of_memory_comes_back_once_with_more(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    campaign = fake.campaign(evaluations(2, "{slurm: {mem_gb: 3}, retry: {oom: {mem_factor: 2.5}}}"))
    submit_campaign(campaign)
    fake.finish("100_0")
    write_failure(fake.runs_of("100_1")[0], "the process was killed by SIGKILL", 137)
    fake.end("100_1", "FAILED")
    assert advance(campaign) is None
    again = list(fake.jobs.values())[-1]
    assert again["options"]["mem"] == "7680M"
    (run,) = fake.runs_of(again["id"])
    write_failure(run, "DefaultCPUAllocator: can't allocate memory", 1)
    fake.end(again["id"], "FAILED")
    # Before anybody has looked at how the second ended, and after.
    words = [
        "100_1 on node1: out of memory, 3.91 GB asked for (the process was killed by SIGKILL)",
        f"{again['id']} on node1: out of memory, 3.91 GB asked for (DefaultCPUAllocator: can't allocate memory)",
    ]
    for _ in range(2):
        capsys.readouterr()
        print_explanation(campaign, run.name)
        told = capsys.readouterr().out
        assert told.partition("tried:")[2].split("job ")[1:] == [f"{words[0]}\n{' ' * 12}", f"{words[1]}\n"]
        assert advance(campaign) == {"done": 1, "failed": 1}


def test_more_memory_replaces_the_sites_own_spelling(fake: Any) -> None:
    campaign = fake.campaign(evaluations(1, "{slurm: {options: {mem: 3G, nice: 5}}}"))
    submit_campaign(campaign)
    fake.end("100", "OUT_OF_MEMORY")
    assert advance(campaign) is None
    again = list(fake.jobs.values())[-1]["options"]
    assert (again["mem"], again["nice"]) == ("8000M", "5")


def test_memory_that_nobody_gave_is_what_the_accounts_say(fake: Any) -> None:
    campaign = fake.campaign(evaluations(1))
    submit_campaign(campaign)
    fake.end("100", "OUT_OF_MEMORY")
    assert advance(campaign) is None
    assert list(fake.jobs.values())[-1]["options"]["mem"] == "8000M"


def test_a_gpus_memory_is_another_matter(fake: Any) -> None:
    campaign = fake.campaign(evaluations(1, "{slurm: {mem_gb: 3}}"))
    submit_campaign(campaign)
    write_failure(fake.runs_of("100")[0], "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 1)
    fake.end("100", "FAILED")
    assert advance(campaign) == {"failed": 1}


def test_a_node_that_fails_jobs_quickly_is_left_out(fake: Any, caplog: pytest.LogCaptureFixture) -> None:
    campaign = fake.campaign(evaluations(4, "{slurm: {exclude: node9}}"))
    submit_campaign(campaign)
    for index in (0, 1):
        fake.end(f"100_{index}", "FAILED@node0")  # before the run began
    fake.finish("100_2")
    (done,) = fake.runs_of("100_2")
    line = {"event": "done", "at": "2026-01-01T00:00:00+00:00", "node": "node1"}
    (done / "attempts.jsonl").write_text(json.dumps(line) + "\n")
    with caplog.at_level("INFO"):
        assert advance(campaign) is None
    again = list(fake.jobs.values())[-1]
    assert again["options"]["exclude"] == "node9,node0"
    assert again["options"]["array"] == "0-1"
    assert "node node0 is left out: 2 jobs failed on it quickly" in caplog.text


def test_time_limits_in_vain_are_not_repeated_for_ever(fake: Any) -> None:
    campaign = fake.campaign(evaluations(1, "{retry: {timeout: {max: 2}}}"))
    submit_campaign(campaign)
    limits = 0
    while (states := advance(campaign)) is None:
        (element,) = [e for e in fake.live() if "element" in fake.jobs[e]["text"]]
        fake.end(element, "TIMEOUT")
        limits += 1
        assert limits < 9
    assert limits == 3
    assert states == {"interrupted": 1}


def test_what_the_site_cancels_comes_back_and_what_people_cancel_does_not(fake: Any) -> None:
    campaign = fake.campaign(evaluations(2, "{array: never}"))
    submit_campaign(campaign)
    by_site, by_hand = "100", "101"
    fake.end(by_site, "CANCELLED")
    note_cancelled(fake.runs_of(by_hand)[0])
    fake.end(by_hand, "CANCELLED")
    assert advance(campaign) is None
    assert Counter(fake.submitted(campaign)) == Counter(
        {fake.runs_of(by_site)[0].name[-12:]: 2, fake.runs_of(by_hand)[0].name[-12:]: 1}
    )


def test_status_asks_once_whatever_the_number_of_runs(fake: Any) -> None:
    from benchmarks.launch import slurm

    campaign = fake.campaign(evaluations(12, "{array: never}"))
    submit_campaign(campaign)
    for element in fake.live()[:6]:
        fake.end(element, "CANCELLED")
    before = {command: fake.calls(command) for command in ("squeue", "sacct")}
    states, silence = slurm.job_states(campaign.plan, campaign.root)
    assert not silence
    assert Counter(state.state for state in states.values()) == {"CANCELLED": 6, "PENDING": 6}
    assert {command: fake.calls(command) - before[command] for command in before} == {"squeue": 1, "sacct": 1}


def test_answers_serve_the_next_command_until_something_is_submitted(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.launch import slurm

    monkeypatch.setattr(ask, "CACHE_S", 60.0)
    campaign = fake.campaign(evaluations(3))
    submit_campaign(campaign)
    before = fake.calls("squeue")
    for _ in range(3):
        assert len(slurm.job_states(campaign.plan, campaign.root)[0]) == 3
    assert fake.calls("squeue") == before + 1
    list(cancel_runs(campaign, []))
    assert {state.state for state in slurm.job_states(campaign.plan, campaign.root)[0].values()} == {"CANCELLED"}


def test_the_feeder_goes_before_the_runs_and_waits_for_a_part_of_them(fake: Any) -> None:
    fake.configure(limit=5)
    campaign = fake.campaign(evaluations(8))
    submit_campaign(campaign, feeder=True)
    feeder, *arrays = fake.jobs.values()
    assert feeder["options"]["job-name"] == "fastmoco-feeder-many"
    assert "--feeder" in feeder["text"]
    assert sum(len(job["states"]) for job in arrays) == 4
    submit_campaign(campaign, feeder=True)
    assert sum(job["options"]["job-name"] == "fastmoco-feeder-many" for job in fake.jobs.values()) == 1
