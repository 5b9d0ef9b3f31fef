"""Create, find, list and remove run directories on this machine."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from launcher.errors import JobError, MachineError
from launcher.runs.registry import register, registered
from rundir.files import write_json
from rundir.paths import PLAN
from rundir.plan import Plan

BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
ID_CHARACTERS = 4
LAST = "last"
REMOVALS, REMOVAL_PAUSE_SECONDS = 5, 0.2
ID_PARTS = 3
"""A run's id has three parts between dashes: date, time and random characters."""


def new_run_dir(root: Path, name: str) -> Path:
    """Create the empty directory of a new run, `<root>/<name>-<UTC time>-<random>`, and return it.

    Raises:
        MachineError: the folder cannot be made or written to.
    """
    run_dir = fresh_path(root, name)
    try:
        run_dir.mkdir(parents=True)
        (run_dir / "logs").mkdir()
    except OSError as error:
        raise MachineError(
            f"{root}: cannot make a run directory there: {error.strerror}",
            "Name a writable folder with `--runs DIR`.",
        ) from error
    return run_dir


def fresh_path(root: Path, name: str) -> Path:
    """Return an unused path for a run of that name; nothing is created."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    suffix = "".join(secrets.choice(BASE32) for _ in range(ID_CHARACTERS))
    return root.absolute() / f"{name}-{stamp}-{suffix}"


def link_run(runs_dir: Path, run_dir: Path) -> None:
    """Register a run and link it from `runs_dir`, so that its name finds it. Errors are ignored."""
    if (run_dir / PLAN).is_file():  # not a sweep's folder
        register(run_dir)
    if run_dir.parent.resolve() == runs_dir.resolve():
        return
    with contextlib.suppress(OSError):
        runs_dir.mkdir(parents=True, exist_ok=True)
        (runs_dir / run_dir.name).symlink_to(run_dir)


def write_run(run_dir: Path, job_text: bytes, plan: Plan) -> None:
    """Writes what was asked, byte for byte, and what was decided.

    Raises:
        MachineError: the folder cannot be written to.
        cluster.ClusterError: likewise, for the plan.
    """
    try:
        (run_dir / "job.yaml").write_bytes(job_text)
    except OSError as error:
        raise MachineError(f"{run_dir}: cannot be written: {error.strerror}") from error
    write_json(run_dir / PLAN, plan.to_json())


def remove_run(run_dir: Path) -> None:
    """Delete the directory of a run that was not started. Repeats: a process that is ending may still write to it."""
    for _ in range(REMOVALS):
        shutil.rmtree(run_dir, ignore_errors=True)
        if not run_dir.exists():
            return
        time.sleep(REMOVAL_PAUSE_SECONDS)
    shutil.rmtree(run_dir)


def list_runs(root: Path) -> list[Path]:
    """Return the run directories in `root`, oldest first."""
    if not root.is_dir():
        return []
    return oldest_first(path for path in root.iterdir() if (path / PLAN).is_file())


def oldest_first(runs: Iterable[Path]) -> list[Path]:
    """Sort runs by the time in their names."""
    return sorted(runs, key=lambda path: (path.name.rsplit("-", ID_PARTS)[1:], path.name))


def find_run(text: str, root: Path, *, anywhere: bool = False) -> Path:
    """Return the run directory that a text names.

    Args:
        text: A path, `last`, or the beginning of a run's name or id.
        root: The folder of run directories.
        anywhere: Whether to search all registered runs if no run in the folder matches.

    Raises:
        JobError: nothing matches, or more than one run does.
    """
    if (Path(text) / PLAN).is_file():
        return Path(text).absolute()
    runs = [run.absolute() for run in list_runs(root)]
    elsewhere = oldest_first(registered()) if anywhere else []
    for known in (runs, elsewhere):
        matching = known[-1:] if text == LAST else [run for run in known if _is_meant(run, text)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise _not_one(text, root, runs, matching)
    raise _not_one(text, root, runs or elsewhere, [])


def _is_meant(run: Path, text: str) -> bool:
    return run.name.startswith(text) or run_id(run).startswith(text)


def run_id(run_dir: Path) -> str:
    """Return the part of a run directory's name after the job's name: date, time and random characters."""
    return "-".join(run_dir.name.rsplit("-", ID_PARTS)[1:])


def _not_one(text: str, root: Path, runs: list[Path], matching: list[Path]) -> JobError:
    if matching:
        names = ", ".join(run.name for run in matching[-5:])
        return JobError(f"{text!r} names {len(matching)} runs: {names}", "Give more of the name, or `last`.")
    if runs:
        known = ", ".join(run.name for run in runs[-5:])
        where = root if runs[0].parent == root.absolute() else "any folder"
        return JobError(f"no run {text!r} in {where}", f"There is: {known}. `tuneyard list` shows all.")
    return JobError(f"no run {text!r}: {root} holds no runs", "Name the folder of runs with `--runs DIR`.")
