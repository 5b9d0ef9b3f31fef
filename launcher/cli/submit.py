"""`tuneyard submit`: plan a job, start it, follow it."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cluster import ClusterError, Handle, backend
from launcher.cli._follow import follow
from launcher.cli._options import (
    detach_option,
    job_argument,
    json_option,
    no_correction_option,
    quoted,
    runs_dir_is_given,
    runs_option,
)
from launcher.cli._output import make_console, print_json
from launcher.cli._planning import load_and_plan
from launcher.cli._preparing import prepare, replan_with_counts
from launcher.cli._show_plan import print_plan
from launcher.doctor.run_folder import require_folder
from launcher.interrupts import defer_signals
from launcher.jobfile import LoadedJob, SettingError
from launcher.model.hub import require_hub_files
from launcher.planner.plan import Plan
from launcher.runs.directory import fresh_path, link_run, new_run_dir, remove_run, write_run
from launcher.site.profile import LOCAL
from launcher.trainer_process import require_trainer
from rundir.errors import EXIT_OK, RunDirError, TuneyardError
from rundir.plan import LaunchSpec

SLURM = "slurm"


@click.command()
@job_argument
@runs_option
@click.option("--dry-run", is_flag=True, help="Print the plan and what would be submitted; start nothing.")
@no_correction_option
@detach_option
@json_option
def submit(job_file: Path, runs_dir: Path, dry_run: bool, no_correction: bool, detach: bool, as_json: bool) -> int:
    """Plan a job, start it, and follow it until it ends.

    Ctrl-C while the data is prepared leaves nothing behind; later it stops following, and the run goes on.
    """
    loaded, plan = load_and_plan(job_file, runs_dir=runs_dir, corrected=not no_correction)
    console = make_console(stderr=as_json)
    name = plan.launch.get("backend", LOCAL)
    root = root_of(plan, runs_dir)
    if not dry_run:  # before the plan is printed: what can only fail is one message
        ready_to_submit(plan, root, console, loaded)
    print_plan(plan, console)
    if dry_run:
        return _dry_run(plan, name, fresh_path(root, loaded.job.name), job_file, as_json)
    run_dir = new_run_dir(root, loaded.job.name)
    write_run(run_dir, job_file.read_bytes(), plan.document())
    if prepares_here(plan.launch):  # elsewhere the run does it: a login node has neither torch nor time
        prepare_here(loaded, plan, run_dir, console, runs_dir=runs_dir, corrected=not no_correction)
    handle = _submitted(name, run_dir)
    link_run(runs_dir, run_dir)
    console.print(f"run {run_dir}", markup=False, highlight=False, soft_wrap=True)
    if not detach:
        return follow(run_dir, as_json=as_json)
    if as_json:
        print_json({"run": str(run_dir), "backend": handle.backend, "id": handle.id})
    else:
        click.echo(f"Next: tuneyard status {quoted(run_dir)}, or tuneyard logs {quoted(run_dir)} --follow")
    return EXIT_OK


def prepares_here(launch: dict[str, Any]) -> bool:
    """Return whether the data is tokenised on this machine: for local runs, or if the site profile says so."""
    name = launch.get("backend", LOCAL)
    return name == LOCAL or ((launch.get(name) or {}).get("prepare") or {}).get("where") == "submit"


def root_of(plan: Plan, runs_dir: Path) -> Path:
    """Return the folder for the run directory: `--runs` or TUNEYARD_RUNS, else the site profile's, else the default."""
    return runs_dir if runs_dir_is_given() else Path(plan.launch.get("run_root") or runs_dir)


def ready_to_submit(plan: Plan, root: Path, console: Console, loaded: LoadedJob | None = None) -> None:
    """Refuse before anything is written if the run cannot start: packages, storage, model or scheduler are missing."""
    name = plan.launch.get("backend", LOCAL)
    if prepares_here(plan.launch):
        require_trainer()
    require_folder(plan.launch, root)
    require_hub_model(plan, loaded)
    for note in backend(name).require(LaunchSpec.from_json(plan.launch), root):
        console.print(note, markup=False, highlight=False)


def require_hub_model(plan: Plan, loaded: LoadedJob | None = None) -> None:
    """Refuse a model or dataset of the hub that the run could not load; `loaded` adds the job file's line."""
    try:
        require_hub_files(plan.trainer.model_dump(mode="json"), plan.launch)
    except SettingError as error:
        raise (loaded.located(error) if loaded else error) from None


def _submitted(name: str, run_dir: Path) -> Handle:
    """Submit the run; if that fails or is interrupted, remove its directory."""
    try:
        return submit_to_backend(name, run_dir)
    except (ClusterError, RunDirError):
        if name != LOCAL:
            remove_run(run_dir)
        raise
    except KeyboardInterrupt:
        backend(name).cancel(run_dir)  # does nothing if the run was not submitted
        remove_run(run_dir)
        _say_interrupted()
        raise


def submit_to_backend(name: str, run_dir: Path) -> Handle:
    """Submit a run; with SLURM, signals wait until sbatch has returned."""
    with defer_signals() if name == SLURM else nullcontext():
        return backend(name).submit(run_dir)


def _dry_run(plan: Plan, name: str, run_dir: Path, job_file: Path, as_json: bool) -> int:
    where = backend(name)
    text = where.rendered(run_dir, plan.document(), job_file.read_text(encoding="utf-8"))
    if as_json:
        print_json(plan.as_json() | ({where.renders: text} if text else {}))
    else:
        if text:
            click.echo(f"\n{where.renders} of {run_dir.name}:\n\n{text}", nl=False)
        click.echo("\nDry run: nothing was written or started.")
    return EXIT_OK


def prepare_here(
    loaded: LoadedJob,
    plan: Plan,
    run_dir: Path,
    console: Console,
    *,
    runs_dir: Path | None = None,
    corrected: bool = True,
) -> None:
    """Tokenise in the foreground and plan again with the counted data.

    If that fails, for example because of bad data, the run directory is removed and nothing is started.
    """
    try:
        prepare(run_dir, console)
        replan_with_counts(loaded, plan, run_dir, console, runs_dir=runs_dir, corrected=corrected)
    except BaseException as error:
        remove_run(run_dir)
        if isinstance(error, TuneyardError):
            error.remedy = f"{error.remedy}\nNothing was started, and no run directory was kept.".lstrip()
        elif isinstance(error, KeyboardInterrupt):
            _say_interrupted()
        raise


def _say_interrupted() -> None:
    with suppress(OSError):  # the terminal may be gone
        click.echo("\nInterrupted before the start: no run directory was kept.", err=True)
