"""`tuneyard resume`: the next attempt of a run that ended early, or is to go on longer or otherwise."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cluster import Backend, backend
from launcher.cli._follow import follow
from launcher.cli._options import detach_option, json_option, quoted, run_argument, run_dir_of
from launcher.cli._output import make_console, print_json
from launcher.cli._waiting import wait_until_left
from launcher.cli.submit import submit_to_backend
from launcher.doctor.run_folder import require_folder
from launcher.errors import JobError
from launcher.jobfile import SettingError
from launcher.model.hub import require_hub_files
from launcher.planner.grace_period import adjust
from launcher.replan.plan_diff import CURVE, Change
from launcher.replan.revise import Revision, lengthened, replanned, saved_step
from launcher.runs.finishing import failed_parts
from launcher.runs.read import backend_name, lies_elsewhere
from launcher.runs.registry import register
from launcher.trainer_process import require_trainer
from rundir.errors import EXIT_OK
from rundir.outcome import Outcome
from rundir.plan import DEFAULT_BACKEND, Plan, read_plan
from rundir.progress import read_progress
from rundir.stop import read_stop


@click.command()
@run_argument
@click.option("--job", "job_file", type=click.Path(path_type=Path), help="A changed job file to go on with.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Go on to this step.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Go on to this many epochs.")
@click.option("--dry-run", is_flag=True, help="Print what would change; write and start nothing.")
@detach_option
@json_option
def resume(
    run_name: str,
    runs_dir: Path,
    job_file: Path | None,
    max_steps: int | None,
    epochs: float | None,
    dry_run: bool,
    detach: bool,
    as_json: bool,
) -> int:
    """Go on with a run from its last checkpoint, as its next attempt.

    A finished run goes on when its end is moved. What the run has trained on and how cannot change any more.
    """
    run_dir = run_dir_of(run_name, runs_dir)
    where = backend(backend_name(run_dir))
    _refuse_living(run_dir, where, make_console(stderr=as_json))
    revision = _revision(run_dir, job_file, max_steps, epochs)
    if revision:
        _show(revision.changes, make_console(stderr=as_json))
        _refuse_changes(revision)
    if where.status(run_dir).outcome is Outcome.FINISHED:
        _refuse_finished(run_dir, revision)
    if dry_run:
        return _dry_run(run_dir, revision, as_json)
    if backend_name(run_dir) == DEFAULT_BACKEND:
        require_trainer()
    plan = Plan.from_json(revision.plan) if revision else read_plan(run_dir)
    launch = plan.launch.to_json()
    require_hub_files(plan.trainer, launch, ask=False)
    require_folder(launch, run_dir)
    if revision and revision.changes:
        revision.write(_command(job_file, max_steps, epochs))
    _adjust_grace(run_dir, as_json)
    register(run_dir)
    return _start(run_dir, where, detach, as_json)


def _adjust_grace(run_dir: Path, as_json: bool) -> None:
    """Set the next attempt's grace period from the measured save time; print it if it changes or is too short."""
    try:
        found = adjust(run_dir)
    except SettingError as error:
        raise JobError(f"{error.setting} {error.problem}", error.remedy) from None
    for decision in found:
        line = f"{decision.setting}: {decision.value} s ({decision.reason})"
        make_console(stderr=as_json).print(line, highlight=False, soft_wrap=True)


def _start(run_dir: Path, where: Backend, detach: bool, as_json: bool) -> int:
    try:
        handle = submit_to_backend(backend_name(run_dir), run_dir)
    except KeyboardInterrupt:
        where.cancel(run_dir)  # does nothing if the run was not submitted
        with suppress(OSError):  # the terminal may be gone
            click.echo(f"\nInterrupted before the start. Next: tuneyard resume {quoted(run_dir)} starts it", err=True)
        raise
    if not detach:
        return follow(run_dir, as_json=as_json)
    if as_json:
        print_json({"run": str(run_dir), "backend": handle.backend, "id": handle.id})
    else:
        click.echo(
            f"run {run_dir}\nNext: tuneyard status {quoted(run_dir)}, or tuneyard logs {quoted(run_dir)} --follow"
        )
    return EXIT_OK


def _revision(run_dir: Path, job_file: Path | None, max_steps: int | None, epochs: float | None) -> Revision | None:
    given = [
        name
        for name, value in (("--job", job_file), ("--max-steps", max_steps), ("--epochs", epochs))
        if value is not None
    ]
    if len(given) > 1:
        raise JobError(f"{' and '.join(given)} both say where the run ends", "Give one of them.")
    if job_file is not None:
        return replanned(run_dir, job_file)
    return lengthened(run_dir, max_steps=max_steps, epochs=epochs) if given else None


def _command(job_file: Path | None, max_steps: int | None, epochs: float | None) -> str:
    options = {"--job": job_file, "--max-steps": max_steps, "--epochs": epochs}
    words = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    return shlex.join(["tuneyard", "resume", *words])


def _show(changes: list[Change], console: Console) -> None:
    if not changes:
        console.print("The plan stays as it is.", highlight=False)
        return
    table = Table(box=None, pad_edge=False, title="Changed", title_justify="left")
    for column in ("setting", "was", "now", "effect"):
        table.add_column(column, overflow="fold", no_wrap=column == "setting")
    for change in changes:
        table.add_row(*change.cells())
    console.print(table, highlight=False, markup=False)
    if bent := [change.setting for change in changes if change.kind == CURVE]:
        console.print(f"Warning: other settings than before from here on: {', '.join(bent)}", highlight=False)


def _refuse_changes(revision: Revision) -> None:
    if revision.refused:
        names = ", ".join(change.setting for change in revision.refused)
        raise JobError(
            f"{revision.run_dir.name} has trained, and cannot go on with another {names}",
            "Put the old values back to go on, or submit the job as a new run.",
        )
    step, end = saved_step(revision.run_dir), revision.plan["trainer"]["training"]["max_steps"]
    if step is not None and end and end < step:
        raise JobError(f"{revision.run_dir.name} is at step {step}, behind an end at step {end}", "Set a later end.")


def _refuse_living(run_dir: Path, where: Backend, console: Console) -> None:
    """Refuse a run that is queued or running; if the user has asked it to stop, wait for it first."""
    found = where.status(run_dir)
    stop = read_stop(run_dir)
    if found.state.is_alive and stop is not None and stop.is_users:
        found = wait_until_left(run_dir, console)
    if found.state.is_alive:
        raise JobError(f"{run_dir} is {found.state}", f"Watch it: tuneyard logs {quoted(run_dir)} --follow")


def _refuse_finished(run_dir: Path, revision: Revision | None) -> None:
    if revision is not None and revision.has_steps_left():
        return
    done = f"{run_dir} is finished" + _where_it_ended(run_dir)
    further = "--max-steps N, --epochs X, or --job JOB with a later end"
    where = f"Its model is in {lies_elsewhere(run_dir) or run_dir}/model"
    if failed := failed_parts(run_dir, Outcome.FINISHED):
        where = "; ".join(f"{part.title} failed, and {part.command(quoted(run_dir))} tries it again" for part in failed)
    raise JobError(done, f"{where}; tuneyard resume {quoted(run_dir)} goes on with {further}.")


def _where_it_ended(run_dir: Path) -> str:
    progress = read_progress(run_dir)
    epochs = "" if progress.epoch is None else f", epoch {progress.epoch:.2f}"
    return "" if progress.step is None else f" at step {progress.step}{epochs}"


def _dry_run(run_dir: Path, revision: Revision | None, as_json: bool) -> int:
    changes: list[dict[str, Any]] = [change.as_json() for change in revision.changes] if revision else []
    if as_json:
        print_json({"run": str(run_dir), "from_step": saved_step(run_dir), "changes": changes})
    else:
        click.echo("\nDry run: nothing was written or started.")
    return EXIT_OK
