"""How many tokens a job's data has, told by a run that has tokenised the same files in the same way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import ClusterError
from cluster.rundir import read_json, read_plan
from launcher.jobfile.schema import JobFile

WAYS = ("train", "max_length", "overlong", "assistant_only_loss", "chat_template")
"""Settings of `data` that decide what tokenising leaves."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """Tokens of one pass through a job's training data.

    Attributes:
        tokens: Their number, exact.
        source: The run that counted them.
    """

    tokens: int
    source: str


def data_files(path: str) -> list[Path]:
    """The files that a source means: itself, those that match it, or those in the folder."""
    place = Path(path)
    matches = sorted(place.parent.glob(place.name)) if "*" in place.name else [place]
    return [file for match in matches for file in (sorted(match.iterdir()) if match.is_dir() else [match])]


def tokenised_by(runs: Iterable[Path], job: JobFile) -> Tokenised | None:
    """What the newest of some runs counted in the job's data; `None` where none has tokenised just that.

    Sources that count more or less than once are not told apart in a run's report, so they are left to estimates.
    """
    if any(source.weight != 1 for source in job.data.train):
        return None
    wanted = _stat(job)
    same = (_counted(run, job, wanted) for run in reversed(list(runs))) if wanted else iter(())
    return next(filter(None, same), None)


def _stat(job: JobFile) -> dict[str, list[int]] | None:
    """Size and time of every data file, as a run's fingerprint has them; `None` where one is not here."""
    paths = [source.path for source in job.data.train] + ([job.data.eval.path] if job.data.eval.path else [])
    try:
        found = {str(file): file.stat() for path in paths for file in data_files(path)}
    except OSError:
        return None
    return {name: [facts.st_size, facts.st_mtime_ns] for name, facts in found.items()}


def _counted(run: Path, job: JobFile, wanted: dict[str, list[int]]) -> Tokenised | None:
    try:
        print_of, report = read_json(run / "data" / "fingerprint.json"), read_json(run / "data" / "preflight.json")
        if not print_of or not report or print_of.get("stat") != wanted or not _alike(run, job):
            return None
        return Tokenised(
            tokens=int(report["train"]["tokens"]), source=f"counted when {run.name} tokenised the same data"
        )
    except (ClusterError, OSError, KeyError, TypeError, ValueError):
        return None


def _alike(run: Path, job: JobFile) -> bool:
    """Whether a run tokenises as the job does, with a tokenizer that has not changed since."""
    theirs: dict[str, Any] = read_plan(run)["trainer"]
    ours = job.model_dump(mode="json")
    ways = [(theirs["data"].get(name), ours["data"].get(name)) for name in WAYS]
    ways += [(theirs["model"].get(name), ours["model"].get(name)) for name in ("path", "revision")]
    made = (run / "data" / "fingerprint.json").stat().st_mtime
    files = [Path(job.model.path) / name for name in TOKENIZER_FILES]
    template = job.data.chat_template or ""
    files += [Path(template)] if template.endswith(".jinja") else []
    return all(one == other for one, other in ways) and all(f.stat().st_mtime <= made for f in files if f.is_file())
