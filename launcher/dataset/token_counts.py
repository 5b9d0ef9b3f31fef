"""How much data a job has, told by what has tokenised the same files in the same way: a run, or `tuneyard check`.

What a run counted lies in its folder; what `check` counted, in this user's cache under a key of files, tokenizer and
settings, so that anything that changed is counted anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.dataset.files import data_files
from launcher.dataset.size import PACK_FILL, DatasetSize, combined_size
from launcher.home import expanded, user_folder
from launcher.jobfile.schema import JobFile
from rundir.errors import RunDirError
from rundir.files import read_json, write_json
from rundir.plan import read_plan
from trainer.config import TrainerConfig

ANY = ("eval", "packing")
"""Settings of `data` that do not decide what tokenising leaves of the training rows."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
PATH_VARIABLE = "TUNEYARD_COUNTED"
MOST_KEPT = 200
"""Counts in the cache; older ones make room."""


def tokenised_by(runs: Iterable[Path], job: JobFile) -> DatasetSize | None:
    """What `check`, or the newest of some runs, counted in the job's data; `None` where nothing has tokenised that."""
    wanted = _stat(job)
    if not wanted:
        return None
    same = (_counted(run, job, wanted) for run in reversed(list(runs)))
    return next(filter(None, same), None) or _remembered(job)


def remember(run_dir: Path) -> None:
    """Keeps what a folder's tokenising has counted, for plans of the same data. A full disk does no harm."""
    with contextlib.suppress(RunDirError, OSError, KeyError, TypeError, ValueError):
        config = TrainerConfig.model_validate(read_plan(run_dir).trainer)
        sources = (read_json(run_dir / "data" / "lengths.json") or {})["sources"]
        key = _key(config)
        if key:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{key}.json", {"sources": sources})
            for old in sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-MOST_KEPT]:
                old.unlink()


def cache_folder() -> Path:
    """Where counts are kept."""
    if named := os.environ.get(PATH_VARIABLE):
        return expanded(named)
    return user_folder("XDG_CACHE_HOME", ".cache") / "counted"


def _remembered(job: JobFile) -> DatasetSize | None:
    try:
        kept = read_json(cache_folder() / f"{_key(job)}.json")
        return (
            _amounts(kept["sources"], job, "counted by tuneyard check, or a run that was prepared here")
            if kept
            else None
        )
    except (RunDirError, OSError, KeyError, TypeError, ValueError):
        return None


def _key(config: JobFile | TrainerConfig) -> str:
    """Digest of all that the lengths of the data depend on, this version too; empty where files are not here."""
    stat = _stat(config)
    if not stat:
        return ""
    files = [(str(file), facts.st_size, facts.st_mtime_ns) for file in _tokenizer(config) if (facts := file.stat())]
    ways = _ways(config.model_dump(mode="json"))
    return hashlib.sha256(json.dumps([stat, ways, files, __version__], sort_keys=True).encode()).hexdigest()


def _ways(dumped: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what tokenising leaves."""
    data = {name: value for name, value in dumped["data"].items() if name not in ANY}
    return data | {name: dumped["model"].get(name) for name in ("path", "revision", "eos_token", "added_tokens")}


def _tokenizer(config: JobFile | TrainerConfig) -> list[Path]:
    """The files of the tokenizer and the template that are here."""
    files = [Path(config.model.path) / name for name in TOKENIZER_FILES]
    template = config.data.chat_template or ""
    files += [Path(template)] if template.endswith(".jinja") else []
    return [file for file in files if file.is_file()]


def _stat(config: JobFile | TrainerConfig) -> dict[str, list[int]] | None:
    """Size and time of every data file, as a run's fingerprint has them; `None` where one is not here."""
    paths = [source.path for source in config.data.train]
    try:
        found = {str(file): file.stat() for path in paths for file in data_files(path)}
    except OSError:
        return None
    return {name: [facts.st_size, facts.st_mtime_ns] for name, facts in found.items()}


def _counted(run: Path, job: JobFile, wanted: dict[str, list[int]]) -> DatasetSize | None:
    source = f"counted when {run.name} tokenised the same data"
    try:
        print_of, report = read_json(run / "data" / "fingerprint.json"), read_json(run / "data" / "preflight.json")
        if not print_of or not report or not _same_files(print_of["stat"], wanted) or not _alike(run, job):
            return None
        if lengths := read_json(run / "data" / "lengths.json"):
            return _amounts(lengths["sources"], job, source)
        return _without_lengths(report["train"], job, source)
    except (RunDirError, OSError, KeyError, TypeError, ValueError):
        return None


def _same_files(seen: dict[str, list[int]], wanted: dict[str, list[int]]) -> bool:
    """Whether a run tokenised these files; those that it evaluates on may be others."""
    return all(seen.get(name) == facts for name, facts in wanted.items())


def _amounts(sources: list[list[list[int]]], job: JobFile, source: str) -> DatasetSize:
    train = 1 - job.data.eval.split
    parts = [
        ({int(length): int(count) for length, count in lengths}, train * given.weight)
        for lengths, given in zip(sources, job.data.train, strict=True)
    ]
    return combined_size(parts, source, is_exact=True)


def _without_lengths(report: dict[str, Any], job: JobFile, source: str) -> DatasetSize | None:
    """What a run of an older version counted, as one sum: sources that count more than once are not told apart."""
    if any(given.weight != 1 for given in job.data.train):
        return None
    train, tokens = 1 - job.data.eval.split, int(report["tokens"])
    rows = int(report.get("kept") or tokens / (job.data.max_length * PACK_FILL) + 1)
    return DatasetSize(rows=train * rows, tokens=train * tokens, source=source, lengths={}, is_exact=False)


def _alike(run: Path, job: JobFile) -> bool:
    """Whether a run tokenises as the job does, with a tokenizer that has not changed since."""
    theirs, ours = _ways(read_plan(run).trainer), _ways(job.model_dump(mode="json"))
    made = (run / "data" / "fingerprint.json").stat().st_mtime
    return theirs == ours and all(file.stat().st_mtime <= made for file in _tokenizer(job))
