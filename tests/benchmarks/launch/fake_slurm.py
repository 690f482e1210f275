"""sbatch, squeue, sacct, scontrol and scancel on a folder of JSON, by the name under which this file is called.

FAKE_SLURM/config.json: {"limit": jobs in the queue, "max_array": ..., "says": {command: [[exit code, words], ...]}}:
each call of a command takes the next of its list (null: nothing special); ["lost", words] takes a job and fails all
the same.
"""

import json
import os
import re
import sys
from pathlib import Path

HOME = Path(os.environ["FAKE_SLURM"])
COMMAND = Path(sys.argv[0]).name
WIDTHS = (40, 24, 12, 64, 256, 256)


def load(name, default):
    path = HOME / name
    return json.loads(path.read_text()) if path.exists() else default


def indices(text):
    found = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def live(jobs):
    return [(j, i, s) for j in jobs.values() for i, s in j["states"].items() if s in ("PENDING", "RUNNING")]


def sbatch(jobs, config, lost):
    text = Path(sys.argv[-1]).read_text()
    options = dict(re.findall(r"#SBATCH --([a-z-]+)=?(.*)", text))
    options = {key: value.strip("'") for key, value in options.items()}
    wanted = indices(options["array"]) if "array" in options else [None]
    if max(i or 0 for i in wanted) >= config.get("max_array", 1001):
        sys.exit("sbatch: error: Batch job submission failed: Invalid job array specification")
    if options.get("partition") in config.get("no_partitions", ()):
        sys.exit(f"sbatch: error: invalid partition specified: {options['partition']}")
    if len(live(jobs)) + len(wanted) > config.get("limit", 10**9):
        sys.exit(
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)"
        )
    number = str(100 + len(jobs))
    states = {"" if i is None else str(i): "PENDING" for i in wanted}
    jobs[number] = {"id": number, "options": options, "states": states, "text": text}
    (HOME / "jobs.json").write_text(json.dumps(jobs))
    if lost:
        sys.exit(lost)
    print(f"Submitted batch job {number}")


def name(job, index):
    return f"{job['id']}_{index}" if index else job["id"]


def main():
    config, jobs, counts = load("config.json", {}), load("jobs.json", {}), load("counts.json", {})
    counts[COMMAND] = counts.get(COMMAND, 0) + 1
    (HOME / "counts.json").write_text(json.dumps(counts))
    told = config.get("says", {}).get(COMMAND, [])
    special = told[counts[COMMAND] - 1] if counts[COMMAND] <= len(told) else None
    if special and special[0] != "lost":
        print(special[1], file=sys.stderr)
        sys.exit(special[0])
    if COMMAND == "sbatch":
        sbatch(jobs, config, special[1] if special else None)
    elif COMMAND == "squeue":
        for job, index, state in live(jobs):
            o = job["options"]
            words = (name(job, index), state, "0", "None", o.get("comment", "(null)"), o.get("job-name", "job"))
            print("".join(word.ljust(width) for word, width in zip(words, WIDTHS, strict=True)))
    elif COMMAND == "sacct":
        for job in jobs.values():
            for index, state in job["states"].items():
                word, _, node = state.partition("@")
                print(f"{name(job, index)}|{word}|1:0|{node or 'node1'}|3|4000M")
    elif COMMAND == "scontrol" and sys.argv[1:3] == ["show", "config"]:
        print(f"MaxArraySize            = {config.get('max_array', 1001)}")
    elif COMMAND == "scancel":
        for word in sys.argv[1:]:
            number, _, index = word.partition("_")
            for each in jobs[number]["states"]:
                if each == index or not index:
                    jobs[number]["states"][each] = "CANCELLED"
        (HOME / "jobs.json").write_text(json.dumps(jobs))


main()
