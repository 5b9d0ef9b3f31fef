"""How many steps a run has, before its data is tokenised: said by the job file, or estimated from the data's text."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

from launcher.decisions import Basics
from launcher.jobfile.schema import JobFile
from launcher.sizing.advice_job import row_tokens

ROWS_READ = 2_000
"""Rows of a file that are looked at; the rest is taken to be like them, by bytes."""
FILL = 0.98
"""Share of packs that conversations fill."""
EXACT, ESTIMATED = "training.max_steps", "estimated from the text of the data, about 4 characters a token"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Optimizer steps of a run; `number` is `None` where nobody can know."""

    number: int | None
    source: str = ""


def steps_of(job: JobFile, basics: Basics) -> Steps:
    """The steps of a job: `max_steps`, or those that its epochs have, from data that lies here as JSON lines."""
    if job.training.max_steps:
        return Steps(number=job.training.max_steps, source=EXACT)
    found = [_epoch_tokens(source.path, job.data.max_length, job.data.overlong) for source in job.data.train]
    if not found or any(tokens is None for tokens in found):
        return Steps(number=None)
    weighted = sum(tokens * source.weight for tokens, source in zip(found, job.data.train, strict=True) if tokens)
    trained = weighted * (1 - job.data.eval.split) * job.training.num_train_epochs
    step = basics.packs_per_step * job.data.max_length * FILL
    return Steps(number=math.ceil(trained / step) or None, source=ESTIMATED)


def _epoch_tokens(path: str, longest: int, overlong: str) -> float | None:
    """Tokens that one pass through a source trains on; `None` where it does not lie here as JSON lines."""
    place = Path(path)
    matches = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
    files = [file for match in matches for file in (sorted(match.iterdir()) if match.is_dir() else [match])]
    if not files or not all(file.is_file() and file.suffix == ".jsonl" for file in files):
        return None
    return sum(_file_tokens(str(file), file.stat().st_mtime_ns, longest, overlong) for file in files)


@functools.lru_cache(maxsize=256)
def _file_tokens(file: str, changed: int, longest: int, overlong: str) -> float:
    """Tokens of a file; `changed` is when it was written, so that a new one is read again."""
    seen = tokens = rows = 0
    with Path(file).open("rb") as lines:
        for line in lines:
            seen += len(line)
            if line.strip():
                rows += 1
                tokens += _kept(row_tokens(line.decode("utf-8", "replace")), longest, overlong)
            if rows == ROWS_READ:
                break
    return tokens * Path(file).stat().st_size / seen if seen else 0.0


def _kept(tokens: int, longest: int, overlong: str) -> int:
    """What is left of a conversation under `data.overlong`."""
    if tokens <= longest or overlong == "split":
        return tokens
    return longest if overlong == "truncate" else 0
