"""Load and check a job file; all problems are reported at once, each with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from launcher.jobfile.paths import resolve_paths
from launcher.jobfile.schema import JobFile
from launcher.jobfile.wording import problems_from
from launcher.yamlfile.document import Document, read_document
from launcher.yamlfile.problems import JobFileError, KeyPath, Problem, SettingError


@dataclass(frozen=True, kw_only=True)
class LoadedJob:
    """A checked job file, with the lines of its settings."""

    job: JobFile
    path: Path
    document: Document

    def located(self, error: SettingError) -> JobFileError:
        """Return the planner's error with the file and the line of its setting."""
        path: KeyPath = tuple(error.setting.split("."))
        line = self.document.line(path)
        problem = Problem(line=line, key=error.setting, message=error.problem, got=error.got, remedy=error.remedy)
        return JobFileError(self.document.file, [problem])


def nothing_mounted(path: str) -> bool:
    """Return False: the run sees no files that this machine does not see."""
    return False


def load_job(path: Path, base: Path | None = None, is_mounted: Callable[[str], bool] = nothing_mounted) -> LoadedJob:
    """Read and check a job file. `launcher.site.job.load_job` also takes the mounts of the site profile into account.

    Args:
        path: The YAML file.
        base: The folder that relative paths refer to; the job file's own folder when not given.
        is_mounted: Whether the run will see an absolute path that this machine does not see.

    Raises:
        JobFileError: the file cannot be read, is not YAML, or has wrong settings; the error holds all problems.
    """
    return checked(read_document(path), path, base, is_mounted)


def checked(
    document: Document, path: Path, base: Path | None = None, is_mounted: Callable[[str], bool] = nothing_mounted
) -> LoadedJob:
    """Check a document that was read from `path`; the other arguments are those of `load_job`.

    Raises:
        JobFileError: the job file has wrong settings; the error holds all problems.
    """
    data, problems = resolve_paths(document, base, is_mounted)
    job = None
    try:
        # Validate JSON, not Python values: in strict mode pydantic accepts a mapping as a section only from JSON.
        job = JobFile.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems += problems_from(error.errors(), document)
    if problems or job is None:
        raise JobFileError(document.file, problems)
    return LoadedJob(job=job, path=path, document=document)
