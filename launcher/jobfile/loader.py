"""From a file to a checked job: every problem found at once, each with its line."""

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
    """A checked job file, and where its settings stand."""

    job: JobFile
    path: Path
    document: Document

    def located(self, error: SettingError) -> JobFileError:
        """An error of the planner, with the file and the line of the setting that it is about."""
        path: KeyPath = tuple(error.setting.split("."))
        line = self.document.line(path)
        problem = Problem(line=line, key=error.setting, message=error.problem, got=error.got, remedy=error.remedy)
        return JobFileError(self.document.file, [problem])


def nothing_mounted(path: str) -> bool:
    """For jobs whose files all lie where this machine sees them."""
    return False


def load_job(path: Path, base: Path | None = None, is_mounted: Callable[[str], bool] = nothing_mounted) -> LoadedJob:
    """Reads and checks a job file; `launcher.site.job` does with the site profile that it names.

    Args:
        path: The YAML file.
        base: What relative paths in it are relative to, if not its own folder.
        is_mounted: Whether the run will see an absolute path that this machine does not.

    Raises:
        JobFileError: the file cannot be read, is not YAML, or says something wrong; all problems are in it.
    """
    return checked(read_document(path), path, base, is_mounted)


def checked(
    document: Document, path: Path, base: Path | None = None, is_mounted: Callable[[str], bool] = nothing_mounted
) -> LoadedJob:
    """The job in a document that was read from `path`; the arguments are those of `load_job`.

    Raises:
        JobFileError: it says something wrong; all problems are in it.
    """
    data, problems = resolve_paths(document, base, is_mounted)
    job = None
    try:
        # Through JSON: in strict mode pydantic takes a mapping for a section there, and only there.
        job = JobFile.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems += problems_from(error.errors(), document)
    if problems or job is None:
        raise JobFileError(document.file, problems)
    return LoadedJob(job=job, path=path, document=document)
