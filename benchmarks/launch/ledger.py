"""ROOT/submissions.jsonl: what was given to SLURM, by whom it was asked for, and which run each element of an array is.

A submission is noted before sbatch is called and again with the job's id. Whoever is killed in between, or hears from
sbatch that a socket timed out although the job was taken, finds it in the queue by its mark, `fastmoco:TAG:ID`: TAG is
the root's own, so that two roots of one spec are two campaigns. Written only by who holds the lease on submitting.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LEDGER = "submissions.jsonl"
MARK = re.compile(r"fastmoco:(?P<tag>[0-9a-f]{8}):(?P<id>[0-9a-f]{10})")
Kind = Literal["runs", "tables", "feeder"]


@dataclass
class Submission:
    """One call of sbatch.

    Attributes:
        id: in its mark.
        campaign: whose runs they are.
        elements: index in the array (0 for a single job) -> ends of the ids of the runs it does, in order.
        is_array: whether SLURM numbers its elements.
        job_id: SLURM's, None while nobody knows it.
        at: when it was noted, in seconds of the epoch.
        lane: jobs of one lane run one after the other.
        mem_gb: what each job asked for.
    """

    id: str
    campaign: str
    elements: dict[int, tuple[str, ...]]
    is_array: bool = False
    kind: Kind = "runs"
    job_id: str | None = None
    at: float = 0.0
    lane: int | None = None
    mem_gb: float | None = None
    refused: str | None = None

    def element_id(self, index: int) -> str:
        """SLURM's id of one element."""
        assert self.job_id is not None
        return f"{self.job_id}_{index}" if self.is_array else self.job_id

    def mark(self, tag: str) -> str:
        """The words by which its jobs are found in the queue."""
        return f"fastmoco:{tag}:{self.id}"


@dataclass(frozen=True)
class Place:
    """Where a run was last given to."""

    submission: Submission
    index: int

    @property
    def job_id(self) -> str | None:
        """SLURM's id of the job, None where sbatch never told."""
        return None if self.submission.job_id is None else self.submission.element_id(self.index)


@dataclass
class Ledger:
    """All submissions of a root."""

    root: Path
    submissions: dict[str, Submission] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Ledger:
        """The ledger so far; a line that a kill cut short is left out."""
        ledger = cls(Path(root))
        try:
            text = (ledger.root / LEDGER).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ledger
        for line in text.splitlines():
            try:
                ledger._take(json.loads(line))
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        return ledger

    def places(self) -> dict[str, Place]:
        """End of a run's id -> where it was last given to, refused submissions left out."""
        found = {}
        for submission in self.submissions.values():
            if submission.kind == "runs" and submission.refused is None:
                for index, shorts in submission.elements.items():
                    for short in shorts:
                        found[short] = Place(submission, index)
        return found

    def begin(self, submission: Submission) -> None:
        """Note what is about to be submitted."""
        submission.at = time.time()
        self._append(
            {
                "id": submission.id,
                "campaign": submission.campaign,
                "kind": submission.kind,
                "is_array": submission.is_array,
                "elements": {str(index): list(shorts) for index, shorts in submission.elements.items()},
                "at": round(submission.at, 3),
                "lane": submission.lane,
                "mem_gb": submission.mem_gb,
            }
        )
        self.submissions[submission.id] = submission

    def submitted(self, submission: Submission, job_id: str) -> None:
        """Note the job's id."""
        submission.job_id = job_id
        self._append({"id": submission.id, "job_id": job_id})

    def refuse(self, submission: Submission, why: str) -> None:
        """Note that SLURM did not take it."""
        submission.refused = why
        self._append({"id": submission.id, "refused": why})

    def _take(self, line: dict[str, Any]) -> None:
        if "elements" in line:
            elements = {int(index): tuple(shorts) for index, shorts in line.pop("elements").items()}
            self.submissions[line["id"]] = Submission(elements=elements, **line)
        else:
            found = self.submissions[line["id"]]
            found.job_id = line.get("job_id", found.job_id)
            found.refused = line.get("refused", found.refused)

    def _append(self, line: dict[str, Any]) -> None:
        path = self.root / LEDGER
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            if stream.tell():  # after a line that was cut short, a new one begins
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(json.dumps(line).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def new_id() -> str:
    """An id that no other submission has."""
    return uuid.uuid4().hex[:10]
