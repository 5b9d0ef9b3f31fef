"""Find exact token counts of a job's data that a run or `tuneyard check` has made before.

A run keeps its counts in its run directory. `check` and runs prepared here also keep them in the user's cache, under a
digest of data files, tokenizer and settings, so that a change of any of them is counted again.
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

IRRELEVANT_SETTINGS = ("eval", "packing")
"""Settings of `data` that do not affect the lengths of the tokenised training rows."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
PATH_VARIABLE = "TUNEYARD_COUNTED"
MAX_CACHED_COUNTS = 200
"""Counts that the cache holds; the oldest are deleted first."""


def find_counted_size(runs: Iterable[Path], job: JobFile) -> DatasetSize | None:
    """Return the size of the job's data as counted by the newest of the runs, or by `check`.

    Args:
        runs: Run directories to look in, oldest first.
        job: The job, its paths absolute.

    Returns:
        The size; None if nothing has tokenised this data with these settings, or a file is not on this machine.
    """
    stats = _file_stats(job)
    if not stats:
        return None
    counts = (_size_from_run(run, job, stats) for run in reversed(list(runs)))
    return next(filter(None, counts), None) or _size_from_cache(job)


def cache_token_counts(run_dir: Path) -> None:
    """Copy the counts of a run directory to the user's cache. A cache that cannot be written is no error."""
    with contextlib.suppress(RunDirError, OSError, KeyError, TypeError, ValueError):
        config = TrainerConfig.model_validate(read_plan(run_dir).trainer)
        sources = (read_json(run_dir / "data" / "lengths.json") or {})["sources"]
        key = _cache_key(config)
        if key:
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{key}.json", {"sources": sources})
            for old in sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime)[:-MAX_CACHED_COUNTS]:
                old.unlink()


def cache_folder() -> Path:
    """Return the folder of cached counts."""
    if named := os.environ.get(PATH_VARIABLE):
        return expanded(named)
    return user_folder("XDG_CACHE_HOME", ".cache") / "counted"


def _size_from_cache(job: JobFile) -> DatasetSize | None:
    try:
        cached = read_json(cache_folder() / f"{_cache_key(job)}.json")
        if not cached:
            return None
        return _size_from_lengths(cached["sources"], job, "counted by tuneyard check, or a run that was prepared here")
    except (RunDirError, OSError, KeyError, TypeError, ValueError):
        return None


def _cache_key(config: JobFile | TrainerConfig) -> str:
    """Return a digest of everything that determines the lengths, including the version; empty if a file is missing."""
    stats = _file_stats(config)
    if not stats:
        return ""
    files = [
        (str(file), facts.st_size, facts.st_mtime_ns) for file in _tokenizer_files(config) if (facts := file.stat())
    ]
    settings = _tokenising_settings(config.model_dump(mode="json"))
    return hashlib.sha256(json.dumps([stats, settings, files, __version__], sort_keys=True).encode()).hexdigest()


def _tokenising_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that determine the lengths of the tokenised rows."""
    data = {name: value for name, value in config["data"].items() if name not in IRRELEVANT_SETTINGS}
    return data | {name: config["model"].get(name) for name in ("path", "revision", "eos_token", "added_tokens")}


def _tokenizer_files(config: JobFile | TrainerConfig) -> list[Path]:
    """Return the files of the tokenizer and the chat template that are on this machine."""
    files = [Path(config.model.path) / name for name in TOKENIZER_FILES]
    template = config.data.chat_template or ""
    files += [Path(template)] if template.endswith(".jinja") else []
    return [file for file in files if file.is_file()]


def _file_stats(config: JobFile | TrainerConfig) -> dict[str, list[int]] | None:
    """Return [size in bytes, mtime in ns] of every data file, as in a run's fingerprint; None if one is missing."""
    paths = [source.path for source in config.data.train]
    try:
        found = {str(file): file.stat() for path in paths for file in data_files(path)}
    except OSError:
        return None
    return {name: [facts.st_size, facts.st_mtime_ns] for name, facts in found.items()}


def _size_from_run(run: Path, job: JobFile, stats: dict[str, list[int]]) -> DatasetSize | None:
    """Return what a run counted; None if it has not tokenised the same files in the same way."""
    source = f"counted when {run.name} tokenised the same data"
    try:
        fingerprint, report = read_json(run / "data" / "fingerprint.json"), read_json(run / "data" / "preflight.json")
        if not fingerprint or not report:
            return None
        # the run's fingerprint also lists the files that it evaluates on: they may differ
        has_same_files = all(fingerprint["stat"].get(name) == facts for name, facts in stats.items())
        if not has_same_files or not _tokenises_alike(run, job):
            return None
        if lengths := read_json(run / "data" / "lengths.json"):
            return _size_from_lengths(lengths["sources"], job, source)
        return _size_from_report(report["train"], job, source)
    except (RunDirError, OSError, KeyError, TypeError, ValueError):
        return None


def _size_from_lengths(sources: list[list[list[int]]], job: JobFile, source: str) -> DatasetSize:
    """Return the size given by `lengths.json`, which has [length, conversations] pairs for every data source."""
    train_share = 1 - job.data.eval.split
    parts = [
        ({int(length): int(count) for length, count in lengths}, train_share * given.weight)
        for lengths, given in zip(sources, job.data.train, strict=True)
    ]
    return combined_size(parts, source, is_exact=True)


def _size_from_report(report: dict[str, Any], job: JobFile, source: str) -> DatasetSize | None:
    """Return the size from the preflight report of an older version, which has no lengths.

    The report sums over all sources, so it cannot be used when a source has a weight.
    """
    if any(given.weight != 1 for given in job.data.train):
        return None
    train_share, tokens = 1 - job.data.eval.split, int(report["tokens"])
    rows = int(report.get("kept") or tokens / (job.data.max_length * PACK_FILL) + 1)
    return DatasetSize(rows=train_share * rows, tokens=train_share * tokens, source=source, lengths={}, is_exact=False)


def _tokenises_alike(run: Path, job: JobFile) -> bool:
    """Return whether the run has the job's tokenising settings and the tokenizer has not changed since the run."""
    run_settings = _tokenising_settings(read_plan(run).trainer)
    job_settings = _tokenising_settings(job.model_dump(mode="json"))
    tokenised_at = (run / "data" / "fingerprint.json").stat().st_mtime
    return run_settings == job_settings and all(file.stat().st_mtime <= tokenised_at for file in _tokenizer_files(job))
