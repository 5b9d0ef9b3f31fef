"""Site profiles as files: found by name or path, read from YAML, every problem at once with its line."""

from __future__ import annotations

import difflib
import json
import os
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from cluster.submitting.shipped import shipped_folder
from cluster.submitting.site_profiles import ProfileError, SiteProfile, profile_from
from launcher.errors import JobError
from launcher.home import expanded, user_folder
from launcher.jobfile.loader import LoadedJob
from launcher.jobfile.wording import problems_from
from launcher.site.file_model import file_model, sections
from launcher.yamlfile.document import Document, read_document
from launcher.yamlfile.problems import JobFileError, Problem, SettingError, dotted, shown

LOCAL = "local"
SUFFIX = ".yaml"
FOLDERS_VARIABLE = "TUNEYARD_PROFILES"
DECLARED = {"kubernetes": "cluster.kubernetes.submit.profile", "slurm": "cluster.slurm.profile"}
"""The module with each scheduler's `Profile`, imported when one of its profiles is read."""
DEFAULT = "slurm"
"""For profiles that do not say: those that were written before there were two."""


def load_profile(name: str, beside: Path | None = None) -> SiteProfile:
    """The profile of that name or path; a relative path is taken from the folder `beside`.

    Raises:
        JobFileError: the file says something wrong; each problem has its line.
        JobError: there is no such profile.
    """
    path = find_profile(name, beside)
    document = read_document(path)
    kind = _kind(document)
    problems = _shape_problems(document, kind)
    if not problems:
        try:
            return profile_from(kind, path.stem, document.data)
        except ProfileError as error:
            for one in error.findings:
                remedy = one.remedy and one.remedy[0].upper() + one.remedy[1:]
                line, key = document.line(one.key), dotted(one.key)
                problems.append(Problem(line=line, key=key, message=one.message, got=one.got, remedy=remedy))
    raise JobFileError(str(path), problems)


def profile_of(loaded: LoadedJob) -> SiteProfile | None:
    """The profile that a job file names, None for `local`.

    Raises:
        JobFileError: the profile is wrong, or there is none; the latter with the job file's line.
    """
    name = loaded.job.cluster.profile
    if name == LOCAL:
        return None
    try:
        return load_profile(name, loaded.path.resolve().parent)
    except JobFileError:
        raise
    except JobError as error:
        raise loaded.located(SettingError("cluster.profile", error.message, remedy=error.remedy)) from None


def find_profile(name: str, beside: Path | None = None) -> Path:
    """The file of a profile; JobError names those that there are."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = (beside or Path()) / expanded(name)
        if path.is_file():
            return path
        raise JobError(f"no profile in {path}", "Name a file, or one of `tuneyard doctor --profiles`.")
    for folder in profile_folders():
        if (path := folder / f"{name}{SUFFIX}").is_file():
            return path
    known = sorted(known_profiles())
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There is: {', '.join([LOCAL, *known])}."
    folders = ", ".join(str(folder) for folder in profile_folders())
    raise JobError(f"no profile is called {name!r}", f"{hint} Looked in {folders}.")


def known_profiles() -> dict[str, Path]:
    """Every profile that can be named, with its file."""
    found: dict[str, Path] = {}
    for folder in profile_folders():
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            found.setdefault(path.stem, path)
    return found


def profile_folders() -> list[Path]:
    """Where profiles are looked for, the user's own first."""
    named = [expanded(part) for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    return [
        user_folder("XDG_CONFIG_HOME", ".config") / "profiles",
        *named,
        *map(shipped_folder, ("slurm/profiles", "helm/profiles")),
    ]


def _kind(document: Document) -> type[SiteProfile]:
    """What it becomes, by its `backend`.

    Raises:
        JobFileError: there is no such scheduler.
    """
    name = document.data.get("backend", DEFAULT)
    if name not in DECLARED:
        known = ", ".join(DECLARED)
        line, words = document.line(("backend",)), f"must be one of {known}"
        raise JobFileError(document.file, [Problem(line=line, key="backend", message=words, got=shown(name))])
    declared: type[SiteProfile] = import_module(DECLARED[name]).Profile
    return declared


def _shape_problems(document: Document, kind: type[SiteProfile]) -> list[Problem]:
    try:
        file_model(kind).model_validate_json(json.dumps(document.data, default=str), strict=True)
    except ValidationError as error:
        unknown = [one for one in error.errors() if one["type"] == "extra_forbidden"]
        others = [one for one in error.errors() if one["type"] != "extra_forbidden"]
        return [_unknown(one["loc"], document, kind) for one in unknown] + problems_from(others, document)
    return []


def _unknown(path: tuple[str | int, ...], document: Document, kind: type[SiteProfile]) -> Problem:
    models = dict(sections(kind))
    section = next((str(part) for part in reversed(path[:-1]) if str(part) in models), "")
    known = list(models[section].model_fields)
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
    return Problem(line=document.line(path), key=dotted(path), message="unknown setting", remedy=remedy)
