"""Which SLURM jobs a run has had, as its own directory tells: the one that was submitted, and those that followed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rundir.files import read_json, write_json

STATE = "slurm.json"
LIVES = "slurm-jobs"
"""In `logs`: a line for each start of a job, `job restart time`, written by the batch script."""
_JOB = re.compile(r"\d+(_\d+)?", re.ASCII)
"""`4711`, or `4711_3` for a task of a job array."""


@dataclass(frozen=True)
class Submission:
    """The last `submit` of a run."""

    job: str
    submitted: float
    prepare: str = ""
    """The job that tokenises first, where there is one."""


def write_submission(run_dir: Path, submission: Submission) -> None:
    """Remembers the job that carries the run from now on."""
    first = {"prepare": submission.prepare} if submission.prepare else {}
    write_json(run_dir / STATE, {"job": submission.job, "submitted": submission.submitted, **first})


def read_submission(run_dir: Path) -> Submission | None:
    """The last submission; None before the first."""
    found = read_json(run_dir / STATE) or {}
    if not {"job", "submitted"} <= found.keys():
        return None
    return Submission(str(found["job"]), float(found["submitted"]), str(found.get("prepare") or ""))


def job_ids(run_dir: Path) -> list[str]:
    """All jobs of the last submission, the newest first: a site that does not requeue gets a new job for each start."""
    submission = read_submission(run_dir)
    if submission is None:
        return []
    followed = [words[0] for words in _lives(run_dir) if int(words[2]) >= int(submission.submitted)]
    return list(dict.fromkeys([*reversed(followed), submission.job]))


def _lives(run_dir: Path) -> list[list[str]]:
    try:
        lines = (run_dir / "logs" / LIVES).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [parts for parts in words if len(parts) == 3 and _JOB.fullmatch(parts[0]) and parts[2].isdecimal()]
