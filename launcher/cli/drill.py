"""`tuneyard drill`: a fault rehearsed on the user's own job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cluster import Backend, backend
from launcher.cli._options import job_argument, json_option, quoted, runs_option
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import watched
from launcher.cli._planning import load_and_plan
from launcher.cli._preparing import prepare
from launcher.cli.submit import require_hub_model
from launcher.drill.faults import FAULTS, Fault
from launcher.drill.run import drill_plan, run_drill, share_data
from launcher.drill.verdict import Verdict, judge
from launcher.errors import JobError, RunFailedError
from launcher.planner.plan import Plan
from launcher.runs.directory import new_run_dir, remove_run, write_run
from launcher.trainer_process import require_trainer
from rundir.errors import EXIT_OK, EXIT_RUN_FAILED
from rundir.files import write_json
from rundir.paths import PLAN
from rundir.progress import read_progress

ALL = "all"
COLUMNS = ("fault", "", "steps lost", "noticed", "training again", "back at the step", "what was seen")


@click.command()
@job_argument
@click.option("--fault", type=click.Choice([ALL, *FAULTS]), default=ALL, show_default=True, help="What goes wrong.")
@click.option("--steps", type=click.IntRange(min=9), default=12, show_default=True, help="Steps that are trained.")
@click.option(
    "--hang-seconds", type=click.FloatRange(min=2), default=10, show_default=True, help="Silence that is a hang."
)
@click.option("--keep", is_flag=True, help="Keep the run directories of drills that passed.")
@runs_option
@json_option
def drill(
    job_file: Path, fault: str, steps: int, hang_seconds: float, keep: bool, runs_dir: Path, as_json: bool
) -> int:
    """Rehearse a fault on a few steps of a job, and say what it costs.

    The job is started for real, hit for real, and must come back by itself with the same losses.
    """
    loaded, plan = load_and_plan(job_file)
    if plan.launch.get("backend"):
        raise JobError("a drill takes place on this machine", "Rehearse with `cluster: {profile: local}`.")
    require_trainer()
    require_hub_model(plan, loaded)
    console = make_console(stderr=as_json)
    chosen = list(FAULTS.values()) if fault == ALL else [FAULTS[fault]]
    drills = _Drills(job_file, plan, runs_dir, backend("local"), console)
    try:
        verdicts = [drills.run(one, steps, hang_seconds, keep) for one in chosen]
    finally:
        drills.clear()
    _show(job_file, verdicts, as_json, console)
    return EXIT_OK if all(verdict.passed for verdict in verdicts) else EXIT_RUN_FAILED


class _Drills:
    """Runs one drill after another with data that is tokenised once."""

    def __init__(self, job_file: Path, plan: Plan, runs_dir: Path, where: Backend, console: Console) -> None:
        self._job_file, self._plan, self._runs_dir = job_file, plan, runs_dir
        self._where, self._console = where, console
        self._prepared: Path | None = None

    def run(self, fault: Fault, steps: int, hang_seconds: float, keep: bool) -> Verdict:
        """One drill in a run directory of its own, which goes when the drill passed."""
        run_dir = new_run_dir(self._runs_dir, f"{self._plan.trainer.name}-drill-{fault.name}")
        self._say(f"{fault.name}: {run_dir}")
        write_run(run_dir, self._job_file.read_bytes(), self._plan.document())
        short = drill_plan(self._plan.as_json(), fault, steps, hang_seconds)
        write_json(run_dir / PLAN, short)
        self._give_data(run_dir)
        try:
            verdict = self._judged(fault, run_dir, short["trainer"]["training"]["max_steps"])
        except BaseException:  # Ctrl-C, too
            self._say_what_is_left(run_dir)
            raise
        self._say(f"{fault.name}: {'passed' if verdict.passed else 'FAILED'}: {verdict.reason}")
        if verdict.passed and not keep:
            remove_run(run_dir)
        else:
            self._say(f"kept: tuneyard status {quoted(run_dir)}")
        return verdict

    def _say_what_is_left(self, run_dir: Path) -> None:
        """A drill that was broken off leaves its directory, or says what could not be ended."""
        if self._where.status(run_dir).state in ("queued", "running"):
            click.echo(f"\nIt still runs. Next: tuneyard cancel {quoted(run_dir)}", err=True)
        else:
            click.echo(f"\nThe drill has ended; kept: {quoted(run_dir)}", err=True)

    def clear(self) -> None:
        """Removes the data that the drills shared."""
        if self._prepared is not None:
            remove_run(self._prepared)

    def _judged(self, fault: Fault, run_dir: Path, steps: int) -> Verdict:
        try:
            with watched(run_dir, self._console, "drill"):
                return judge(fault, run_drill(fault, run_dir, self._where), steps)
        except RunFailedError as error:
            failure = read_progress(run_dir).failure.message
            return _not_run(fault, error.message + (f"; {failure}" if failure else ""))

    def _give_data(self, run_dir: Path) -> None:
        """Tokenises in the first run directory; what it made is kept beside the runs for the others."""
        if self._prepared is None:
            try:
                prepare(run_dir, self._console)
            except BaseException:
                remove_run(run_dir)
                raise
            self._prepared = new_run_dir(self._runs_dir, f".{self._plan.trainer.name}-drill-data")
            share_data(run_dir, self._prepared)
        else:
            share_data(self._prepared, run_dir)

    def _say(self, words: str) -> None:
        self._console.print(words, highlight=False, soft_wrap=True)


def _not_run(fault: Fault, reason: str) -> Verdict:
    nothing: dict[str, Any] = {field.name: None for field in dataclasses.fields(Verdict)}
    facts = {
        "fault": fault.name,
        "passed": False,
        "reason": reason,
        "hit": "",
        "noticed_as": "",
        "hit_at_step": 0,
        "steps_compared": 0,
    }
    return Verdict(**nothing | facts)


def _show(job_file: Path, verdicts: list[Verdict], as_json: bool, console: Console) -> None:
    passed = all(verdict.passed for verdict in verdicts)
    if as_json:
        faults = [dataclasses.asdict(verdict) for verdict in verdicts]
        print_json({"job": str(job_file), "passed": passed, "faults": faults})
        return
    table = Table(box=None, pad_edge=False, title="Drill", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, overflow="fold", no_wrap=column != COLUMNS[-1])
    for verdict in verdicts:
        table.add_row(*_cells(verdict))
    console.print(table, highlight=False)
    again = f"Next: tuneyard submit {quoted(job_file)}"
    click.echo(again if passed else "Next: look at what was kept, mend it, and drill again")


def _cells(verdict: Verdict) -> tuple[str, ...]:
    seconds = (verdict.detect_seconds, verdict.restart_seconds, verdict.back_seconds)
    lost = "" if verdict.steps_lost is None else str(verdict.steps_lost)
    mark = "passed" if verdict.passed else "FAILED"
    times = ("" if value is None else f"{value:.1f} s" for value in seconds)
    return verdict.fault, mark, lost, *times, verdict.reason
