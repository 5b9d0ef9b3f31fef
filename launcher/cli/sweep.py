"""`tuneyard sweep`: one run for every combination of settings, and a table of what came out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cluster import backend
from launcher.cli._meter import Meter
from launcher.cli._options import detach_option, json_option, quoted, runs_option
from launcher.cli._output import make_console, print_json
from launcher.cli._sweeping import Planned, plan_all
from launcher.cli.submit import prepare_here, ready_to_submit, require_hub_model, root_of
from launcher.errors import JobError
from launcher.interrupts import defer_signals, exit_code_of
from launcher.runs.directory import fresh_path, link_run, remove_run, write_run
from launcher.runs.finishing import failed_parts
from launcher.runs.sweep import (
    Sweep,
    best,
    combination_text,
    combinations_of,
    find_sweep,
    read_sweep,
    results,
    short_names,
)
from rundir.errors import EXIT_OK, EXIT_RUN_FAILED
from rundir.outcome import Outcome, StopReason
from rundir.paths import PLAN
from rundir.plan import DEFAULT_BACKEND
from rundir.progress import read_progress
from rundir.quantities import count
from rundir.stop import write_stop

POLL_SECONDS = 1.0
ALIVE = ("queued", "running", "unknown")
COLUMNS = ("run", "state", "outcome", "step", "loss", "eval_loss", "exact_match")
CANCELLED_AT_A_TIME = 8


@click.command()
@click.argument("job_file", metavar="[JOB]", required=False, type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="SETTING=A,B", help="A setting and its values; repeatable.")
@click.option("--max-parallel", type=click.IntRange(min=1), help="Runs at a time; here 1, on a cluster all.")
@click.option("--status", "shown", metavar="SWEEP", help="The table of a sweep: its folder, or `last`.")
@click.option("--cancel", "cancelled", metavar="SWEEP", help="End all runs of a sweep now.")
@click.option("--dry-run", is_flag=True, help="Print the runs, and the job array; write and start nothing.")
@runs_option
@detach_option
@json_option
def sweep(
    job_file: Path | None,
    settings: tuple[str, ...],
    max_parallel: int | None,
    shown: str | None,
    cancelled: str | None,
    dry_run: bool,
    runs_dir: Path,
    detach: bool,
    as_json: bool,
) -> int:
    """Run a job once for every combination of settings.

    On SLURM the runs are one job array. Each is a run like any other: status, logs, stop, cancel and resume take it.
    """
    if shown is not None:
        return _show(read_sweep(find_sweep(shown, runs_dir)), as_json)
    if cancelled is not None:
        return _cancel(read_sweep(find_sweep(cancelled, runs_dir)), as_json)
    if job_file is None or not settings:
        raise JobError("a sweep needs a job file and settings", "tuneyard sweep JOB --set training.learning_rate=A,B")
    planned = plan_all(job_file, combinations_of(settings))
    console = make_console(stderr=as_json)
    _print_plans(planned, console)
    root = root_of(planned[0].plan, runs_dir)
    folder = fresh_path(root, f"{planned[0].base_name}-sweep")
    if dry_run:
        return _dry_run(planned, folder, max_parallel, as_json)
    made = _submit(planned, folder, max_parallel, console)
    link_run(runs_dir, folder)
    for run in made.runs:
        link_run(runs_dir, run)
    console.print(f"sweep {folder}", markup=False, highlight=False, soft_wrap=True)
    if made.backend != DEFAULT_BACKEND and detach:
        if as_json:
            print_json({"sweep": str(folder), "runs": [str(run) for run in made.runs]})
        else:
            click.echo(f"Next: tuneyard sweep --status {quoted(folder)}, or tuneyard status RUN for one of them")
        return EXIT_OK
    return _follow(made, max_parallel or 1, console) or _show(made, as_json)


def _print_plans(planned: list[Planned], console: Console) -> None:
    table = Table(box=None, pad_edge=False, title=f"Sweep: {count(len(planned), 'run')}", title_justify="left")
    for column in ("run", "settings", "plan"):
        table.add_column(column, overflow="fold")
    for one in planned:
        ranks = one.plan.trainer.execution.world_size
        table.add_row(
            one.name, combination_text(one.settings), f"{one.plan.trainer.execution.engine} on {count(ranks, 'rank')}"
        )
    console.print(table, highlight=False, markup=False)


def _submit(planned: list[Planned], folder: Path, max_parallel: int | None, console: Console) -> Sweep:
    """Writes the runs, and hands them over where a scheduler takes them; nothing is left where it does not."""
    name = planned[0].plan.launch.get("backend", DEFAULT_BACKEND)
    ready_to_submit(planned[0].plan, folder.parent, console, planned[0].loaded)
    for one in _one_of_each_model(planned)[1:]:
        require_hub_model(one.plan, one.loaded)
    runs = [fresh_path(folder.parent, one.name) for one in planned]
    made = Sweep(folder=folder, backend=name, runs=runs, combinations=[one.settings for one in planned])
    try:
        for run, one in zip(runs, planned, strict=True):
            (run / "logs").mkdir(parents=True)
            write_run(run, one.text, one.plan.document())
        (folder / "logs").mkdir(parents=True)
        made.write()
        if name == DEFAULT_BACKEND:  # all before any starts: bad data is refused once, and leaves nothing behind
            for run, one in zip(runs, planned, strict=True):
                prepare_here(one.loaded, one.plan, run, console)
        elif name == "slurm":
            from cluster.slurm.backend import SlurmBackend

            with defer_signals():  # an array that SLURM is just taking must not be left without its runs
                SlurmBackend().submit_array(folder, runs, max_parallel)
        else:
            _submit_each(made)
    except BaseException:  # a full disk and Ctrl-C, too
        _undo(made)
        raise
    return made


def _one_of_each_model(planned: list[Planned]) -> list[Planned]:
    found: dict[tuple[str, str | None], Planned] = {}
    for one in planned:
        found.setdefault((one.plan.trainer.model.path, one.plan.trainer.model.revision), one)
    return list(found.values())


def _submit_each(made: Sweep) -> None:
    where = backend(made.backend)
    for run in made.runs:
        where.submit(run)


def _undo(made: Sweep) -> None:
    """Takes back what was handed over of a sweep that did not come about, and removes what was written of it."""
    where = backend(made.backend)
    for run in made.runs:
        if (run / PLAN).is_file() and where.status(run).state in ALIVE:
            where.cancel(run)
    for path in [*made.runs, made.folder]:
        if path.is_dir():
            remove_run(path)


def _follow(made: Sweep, max_parallel: int, console: Console) -> int:
    """Until no run is alive. Ctrl-C stops following only: what runs goes on, and what waits here does not start."""
    try:
        with Meter(console) as meter:
            _until_over(made, max_parallel, meter)
    except KeyboardInterrupt as error:
        click.echo(_left_behind(made), err=True)
        return exit_code_of(error)
    return EXIT_OK


def _left_behind(made: Sweep) -> str:
    """What goes on after Ctrl-C, how to end it, and how to start the rest."""
    where = backend(made.backend)
    states = {run: where.status(run).state for run in made.runs}
    alive = [run.name for run, state in states.items() if state in ALIVE]
    waiting = [run for run, state in states.items() if state == "none"]
    words = ["\n" + (f"These go on: {', '.join(alive)}" if alive else "No run goes on.")]
    if waiting:
        words.append("Not started; each starts with: " + "; ".join(f"tuneyard resume {quoted(run)}" for run in waiting))
    end = f", tuneyard sweep --cancel {quoted(made.folder)}" if alive else ""
    return "\n".join([*words, f"Next: tuneyard sweep --status {quoted(made.folder)}{end}"])


def _until_over(made: Sweep, max_parallel: int, meter: Meter) -> None:
    """Until no run is alive; each end is told. On this machine so many at a time are started, in order."""
    where, ended = backend(made.backend), set[Path]()
    waiting = list(made.runs) if made.backend == DEFAULT_BACKEND else []
    while True:
        living = 0
        for run in [run for run in made.runs if run not in ended and run not in waiting]:
            if (status := where.status(run)).state in ALIVE:
                living += 1
            else:
                ended.add(run)
                meter.print_line(f"{run.name}: {status.outcome or status.state}")
        while waiting and living < max_parallel:
            where.submit(waiting.pop(0))
            living += 1
        if not living and not waiting:
            return
        _show_steps(made, len(ended), meter)
        time.sleep(POLL_SECONDS / 2)


def _show_steps(made: Sweep, num_ended: int, meter: Meter) -> None:
    """Steps of all runs, as far as each has told how many it makes; a run that waits makes as many as the others."""
    told = [read_progress(run) for run in made.runs]
    known = [progress.max_steps for progress in told if progress.max_steps]
    total = round(sum(known) / len(known) * len(told)) if known else None
    done = sum(progress.step or 0 for progress in told)
    meter.show("sweep", done if known else None, total, unit="steps", note=f"{num_ended} of {len(told)} runs ended")


def _show(made: Sweep, as_json: bool) -> int:
    """The table; exit code 5 when all is over and a run did not finish, or lacks what comes after training."""
    where, rows = backend(made.backend), results(made)
    for run, row in zip(made.runs, rows, strict=True):
        status = where.status(run)
        row |= {"state": status.state, "outcome": status.outcome, "reason": status.reason}
        row["failed_parts"] = [part.as_json() for part in failed_parts(run, status.outcome)]
    winner = best(rows)
    if as_json:
        print_json({"sweep": str(made.folder), "best": winner["run"] if winner else None, "runs": rows})
    else:
        _print_table(rows, winner)
        for words in _why(rows, winner):
            click.echo(words)
        click.echo(
            "Next: " + (f"tuneyard export {winner['run']}" if winner else "tuneyard status RUN, for one of them")
        )
    ended = [row for row in rows if row["state"] == "ended"]
    failed = [row for row in ended if row["outcome"] not in (Outcome.FINISHED, Outcome.STOPPED) or row["failed_parts"]]
    return EXIT_RUN_FAILED if failed else EXIT_OK


def _why(rows: list[dict[str, Any]], winner: dict[str, Any] | None) -> Iterator[str]:
    """What the star means, and which run was better once than the model that it leaves."""
    if winner is None:
        return
    if winner["exact_match"] is not None:
        yield "* the model with the most exact answers"
        return
    loss, step = winner["eval_loss"], winner["eval_step"]
    yield f"* the model with the least held-out loss: {loss:.4f} at step {step}, of the checkpoint that is exported"
    lowest = min((row for row in rows if row["lowest_eval_loss"] is not None), key=lambda row: row["lowest_eval_loss"])
    if lowest["lowest_eval_loss"] < loss:
        step = lowest["lowest_eval_step"]
        kept = f"tuneyard export {lowest['run']} --step {step}" if lowest["lowest_is_kept"] else "that was not kept"
        yield f"  {lowest['run']} had {lowest['lowest_eval_loss']:.4f} at step {step}: {kept}"


def _print_table(rows: list[dict[str, Any]], winner: dict[str, Any] | None) -> None:
    """A column for each setting, and for what any run has to tell."""
    table = Table(box=None, pad_edge=False)
    names = short_names(list(rows[0]["settings"]))
    told = [column for column in COLUMNS if any(row[column] is not None for row in rows)]
    for column in ("", *names.values(), *(name.replace("_", " ") for name in told)):
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = ("" if row[column] is None else _text(row[column]) for column in told)
        table.add_row("*" if row is winner else "", *(str(row["settings"].get(name, "")) for name in names), *cells)
    make_console().print(table, highlight=False, markup=False)


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _cancel(made: Sweep, as_json: bool) -> int:
    """All at once: those that train save at the same time, and nobody waits for them one after the other."""
    where = backend(made.backend)
    living = [run for run in made.runs if where.status(run).state in ALIVE]
    for run in living:
        write_stop(run, StopReason.STOPPED, "tuneyard sweep --cancel", urgent=True)
    with ThreadPoolExecutor(CANCELLED_AT_A_TIME) as pool:
        list(pool.map(lambda run: backend(made.backend).cancel(run), living))
    if as_json:
        print_json({"sweep": str(made.folder), "cancelled": [run.name for run in living]})
    else:
        click.echo(f"cancelled {count(len(living), 'run')}\nNext: tuneyard sweep --status {quoted(made.folder)}")
    return EXIT_OK


def _dry_run(planned: list[Planned], folder: Path, max_parallel: int | None, as_json: bool) -> int:
    script = None
    if planned[0].plan.launch.get("backend") == "slurm":
        from cluster.slurm.backend import SlurmBackend

        runs = {folder.parent / one.name: one.plan.document() for one in planned}
        script = SlurmBackend().array_script(folder, runs, max_parallel)
    if as_json:
        plans = [{"name": one.name, "settings": one.settings, "plan": one.plan.as_json()} for one in planned]
        print_json({"runs": plans} | ({} if script is None else {"script": script}))
    else:
        click.echo(f"\n{script}" if script else "", nl=False)
        click.echo("\nDry run: nothing was written or started.")
    return EXIT_OK
