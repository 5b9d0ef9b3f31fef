"""Site profiles as files: found by name or path, read from YAML, every problem at once with its line."""

from __future__ import annotations

import difflib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from cluster.slurm.profile import Finding, Profile, ProfileError
from launcher.errors import JobError
from launcher.jobfile.document import Document, read_document
from launcher.jobfile.loader import LoadedJob
from launcher.jobfile.problems import JobFileError, Problem, SettingError, dotted
from launcher.jobfile.schema import Walltime
from launcher.jobfile.wording import problems_from
from trainer.config import PositiveInt, Section

LOCAL = "local"
SUFFIX = ".yaml"
FOLDERS_VARIABLE = "TUNEYARD_PROFILES"
Text = Annotated[str, StringConstraints(min_length=1)]


class ContainerFile(Section):
    """The image that every process of ours runs in."""

    kind: Literal["apptainer", "pyxis"] = Field(description="How the site runs images.")
    image: Text = Field(description="A .sif or .sqsh file that all nodes see, or an image's address.")
    mounts: list[Text] = Field(default_factory=list, description="Folders that the job sees beside its own ones.")


class SetupFile(Section):
    """How a job comes by its Python: at most one of venv, conda and container."""

    venv: Text | None = Field(None, description="Folder of a venv that all nodes see.")
    conda: Text | None = Field(None, description="Name or path of a conda environment.")
    container: ContainerFile | None = Field(None, description="An image, in place of both.")
    lines: list[Text] = Field(default_factory=list, description="Shell lines of the site's own, run first.")


class PreemptionFile(Section):
    """What the site does before it takes machines away."""

    grace_seconds: Annotated[int, Field(ge=0)] | None = Field(None, description="Seconds between warning and end.")
    signal: Literal["USR1", "TERM"] | None = Field(None, description="The warning: the job's own USR1, or SIGTERM.")


class ProfileFile(Section):
    """One cluster, or one way of using it."""

    backend: Literal["slurm"] = Field("slurm", description="The scheduler.")
    description: str = Field("", description="One line for people.")
    partition: Text | None = Field(None, description="--partition; none takes the site's default.")
    account: Text | None = Field(None, description="--account.")
    qos: Text | None = Field(None, description="--qos.")
    constraint: Text | None = Field(None, description="--constraint: features that nodes must have.")
    reservation: Text | None = Field(None, description="--reservation.")
    comment: Text | None = Field(None, description="--comment.")
    gpu_request: Literal["auto", "gpus-per-node", "gres", "gpus-per-task", "none"] = Field(
        "auto", description="How GPUs are asked for; auto follows SLURM's version, none asks for none."
    )
    gpu_types: dict[str, Text] = Field(default_factory=dict, description="Our name of a GPU to the site's.")
    gpus_per_node: PositiveInt | None = Field(None, description="GPUs that each node has.")
    exclusive: bool = Field(False, description="Whole nodes only.")
    memory: Text | None = Field(None, description="--mem of each node, such as 480G; 0 takes all of it.")
    cpus_per_gpu: PositiveInt | None = Field(None, description="CPU cores asked for with each GPU.")
    directives: dict[str, bool | int | str] = Field(default_factory=dict, description="More #SBATCH directives.")
    modules: list[Text] = Field(default_factory=list, description="`module load`ed, in this order.")
    setup: SetupFile = SetupFile()
    environment: dict[str, str] = Field(default_factory=dict, description="Variables of the job. Never secrets.")
    nccl: dict[str, str] = Field(default_factory=dict, description="NCCL's settings without the NCCL_ prefix.")
    forward: list[Text] = Field(default_factory=list, description="Variables taken over from who submits, by name.")
    run_root: Text | None = Field(None, description="Folder of run directories, on storage that all nodes share.")
    scratch: Text | None = Field(None, description="Fast storage of a node, for caches.")
    max_walltime: Walltime | None = Field(None, description="The longest a job may run here, such as 24h.")
    requeue: bool = Field(True, description="Whether the site lets jobs go back into the queue.")
    preemption: PreemptionFile = PreemptionFile()
    python: Text | None = Field(None, description="Python on the nodes, where it is not the submitting one.")


_SECTIONS: dict[str, type[Section]] = {
    "": ProfileFile,
    "setup": SetupFile,
    "container": ContainerFile,
    "preemption": PreemptionFile,
}


def load_profile(name: str, beside: Path | None = None) -> Profile:
    """The profile of that name or path; a relative path is taken from the folder `beside`.

    Raises:
        JobFileError: the file says something wrong; each problem has its line.
        JobError: there is no such profile.
    """
    path = find_profile(name, beside)
    document = read_document(path)
    problems = _shape_problems(document)
    if not problems:
        try:
            return Profile.from_dict(path.stem, document.data)
        except ProfileError as error:
            problems = [_problem(finding, document) for finding in error.findings]
    raise JobFileError(str(path), problems)


def profile_of(loaded: LoadedJob) -> Profile | None:
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
        path = (beside or Path()) / Path(name).expanduser()
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
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    named = [Path(part).expanduser() for part in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if part]
    shipped = [Path(__file__).parents[1] / "slurm" / "profiles", Path(sys.prefix) / "share" / "tuneyard" / "profiles"]
    return [config / "tuneyard" / "profiles", *named, *(folder for folder in shipped if folder.is_dir())]


def _shape_problems(document: Document) -> list[Problem]:
    try:
        ProfileFile.model_validate_json(json.dumps(document.data, default=str), strict=True)
    except ValidationError as error:
        unknown = [one for one in error.errors() if one["type"] == "extra_forbidden"]
        others = [one for one in error.errors() if one["type"] != "extra_forbidden"]
        return [_unknown(one["loc"], document) for one in unknown] + problems_from(others, document)
    return []


def _unknown(path: tuple[str | int, ...], document: Document) -> Problem:
    section = next((str(part) for part in reversed(path[:-1]) if str(part) in _SECTIONS), "")
    known = list(_SECTIONS[section].model_fields)
    near = difflib.get_close_matches(str(path[-1]), known, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(known)}."
    return Problem(line=document.line(path), key=dotted(path), message="unknown setting", remedy=remedy)


def _problem(finding: Finding, document: Document) -> Problem:
    remedy = finding.remedy and finding.remedy[0].upper() + finding.remedy[1:]
    line, key = document.line(finding.key), dotted(finding.key)
    return Problem(line=line, key=key, message=finding.message, got=finding.got, remedy=remedy)
