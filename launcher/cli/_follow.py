"""Follow a run until it ends: a progress bar on a terminal, plain lines elsewhere, then outcome and next step."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import click

from cluster import Status, backend
from launcher.calibration.observed import record_run
from launcher.cli._meter import Meter
from launcher.cli._options import quoted
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import show_phase
from launcher.interrupts import exit_code_of
from launcher.report.html import write_report
from launcher.runs.finishing import failed_parts
from launcher.runs.read import backend_name, lies_elsewhere, own_directory
from rundir.attempts import AttemptRecord, newest_attempt, read_attempts
from rundir.errors import EXIT_CLUSTER, EXIT_RUN_FAILED, TuneyardError
from rundir.observed import PhaseProgress, read_phase
from rundir.outcome import Outcome
from rundir.progress import Progress, read_progress
from rundir.states import RunState, TrainerState

POLL_SECONDS = 0.5
TOKENISING = "tokenising"
"""Name of the phase here and in the trainer's phase.json."""
AROUND_TRAINING: dict[str, str] = {
    TrainerState.STARTING: "starting",
    TrainerState.PREPARING: TOKENISING,
    TrainerState.LOADING: "loading",
    TrainerState.FINISHED: "exporting",
    TrainerState.FAILED: "ending",
    TrainerState.STOPPED: "ending",
}
"""States of the trainer in which it makes no steps, each with the phase that is shown."""
ENDS_OF_TRAINING = (TrainerState.FINISHED, TrainerState.STOPPED)
CAUSE_CHARACTERS = 160


def follow(run_dir: Path, *, as_json: bool = False) -> int:
    """Show a run until it ends, across restarts, and return the exit code for its outcome.

    Ctrl-C only ends the following, not the run.
    """
    console = make_console(stderr=as_json)
    try:
        with Meter(console) as meter:
            status = _watch(run_dir, meter)
    except KeyboardInterrupt as error:
        with suppress(OSError):  # the terminal may be gone
            click.echo(
                f"\nThe run goes on. Next: tuneyard status {quoted(run_dir)}, or tuneyard stop {quoted(run_dir)}",
                err=True,
            )
        return exit_code_of(error)
    return _end(run_dir, status, as_json)


def _watch(run_dir: Path, meter: Meter) -> Status:
    """Show the run's progress and announce each restart until it is neither queued nor running."""
    where = backend(backend_name(run_dir))
    announced = {record.number for record in read_attempts(run_dir) if not record.is_open}
    while True:
        status = where.status(run_dir)
        if status.state.is_alive:
            for record in new_restarts(read_attempts(run_dir), announced):
                meter.print_line(restart_message(record))
                meter.reset()
        progress = read_progress(run_dir)
        if status.state == RunState.QUEUED:
            meter.show("queued", facts=status.reason)
        elif progress and progress.attempt == status.attempt:
            show_progress(meter, progress, read_phase(run_dir))
        elif status.state == RunState.RUNNING and (phase := read_phase(run_dir)).phase == TOKENISING:
            show_phase(meter, phase)  # tokenising in a job of its own comes before the first attempt
        elif status.state == RunState.RUNNING:
            meter.show("starting" if status.attempt is not None else "waiting", facts=status.reason)
        if status.state in (RunState.NONE, RunState.ENDED):
            return status
        time.sleep(POLL_SECONDS)


def new_restarts(records: list[AttemptRecord], announced: set[int]) -> list[AttemptRecord]:
    """Return attempts that ended and are followed by another one, and add their numbers to `announced`.

    After a crash or a hang the next attempt is certain while its waiting time runs. After a preemption it is not, so
    that restart is returned only once the next attempt exists.
    """
    newest = max((record.number for record in records), default=0)
    found = []
    for record in records:
        waits = record.decision.restarts and bool(record.decision.wait_seconds)
        if not record.is_open and record.number not in announced and (waits or record.number < newest):
            announced.add(record.number)
            found.append(record)
    return found


def restart_message(record: AttemptRecord) -> str:
    """Return one line about an attempt that ended and the next one: `attempt 1 crashed at step 12 (...); ...`."""
    cause = (record.cause or "").splitlines()
    at = "" if record.last_step is None else f" at step {record.last_step}"
    ended = (record.outcome or Outcome.CRASHED).ending
    why = f" ({cause[0][:CAUSE_CHARACTERS]})" if cause else ""
    wait = record.decision.wait_seconds
    when = f"starts in {wait:.0f} s" if wait else "starts"
    return f"attempt {record.number} {ended}{at}{why}; attempt {record.number + 1} {when}"


def show_progress(meter: Meter, progress: Progress, phase: PhaseProgress) -> None:
    """Show what the trainer does: the phase whose progress it counts, else its steps, else only its state."""
    state, steps = progress.state or TrainerState.STARTING, progress.max_steps
    counted = phase.phase == TrainerState.EVALUATING or state in AROUND_TRAINING
    if steps and meter.current == "training" and state in ENDS_OF_TRAINING:  # leave the bar at the last step
        meter.show("training", progress.step or 0, steps, unit="steps", facts=_facts(progress))
    if phase and counted:
        show_phase(meter, phase)
    elif steps and state not in AROUND_TRAINING:
        facts, left = _facts(progress), seconds_left(progress)
        meter.show("training", progress.step or 0, steps, unit="steps", facts=facts, left_seconds=left)
    else:
        meter.show(AROUND_TRAINING.get(state, state))


def _facts(progress: Progress) -> str:
    parts = [progress.state] if progress.state in (TrainerState.SAVING, TrainerState.EVALUATING) else []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    return "  ".join(parts)


def seconds_left(progress: Progress) -> float | None:
    """Return the seconds that the remaining steps take at the current speed; None before a speed is measured."""
    step, steps, tokens, speed = progress.step, progress.max_steps, progress.tokens, progress.tokens_per_second
    return (steps - step) * tokens / step / speed if step and steps and tokens and speed else None


def _end(run_dir: Path, status: Status, as_json: bool) -> int:
    outcome = status.outcome
    record_run(run_dir)
    report = _try_report(run_dir)
    failed = failed_parts(run_dir, outcome)
    if as_json:
        facts = {"run": str(run_dir), "attempt": status.attempt, "outcome": outcome or "unknown", "report": report}
        print_json(facts | {"failed_parts": [part.as_json() for part in failed]})
    else:
        _print_end(run_dir, outcome, status.reason, report)
    if failed:
        return EXIT_RUN_FAILED
    return EXIT_CLUSTER if outcome is None else outcome.exit_code


def _try_report(run_dir: Path) -> str | None:
    """Write the report and return its path; a failure is printed and gives None, so that the outcome is still shown."""
    try:
        return str(write_report(run_dir))
    except TuneyardError as error:
        click.echo(f"no report: {error}", err=True)
        return None


def _print_end(run_dir: Path, outcome: Outcome | None, reason: str, report: str | None) -> None:
    click.echo(f"outcome: {outcome or 'unknown'}" + (f" ({reason})" if reason and reason != outcome else ""))
    for message in _closing_messages(run_dir, outcome):
        click.echo(message)
    if report is not None:
        click.echo(f"report: {report}")
    click.echo(next_step(run_dir, outcome))


def _closing_messages(run_dir: Path, outcome: Outcome | None) -> list[str]:
    """Return the trainer's error, its remedy, and why the run is not restarted, as far as there are any."""
    if outcome in (Outcome.FINISHED, Outcome.STOPPED):
        return [part.text() for part in failed_parts(run_dir, outcome)]
    failure, record = read_progress(run_dir).failure, newest_attempt(run_dir) or AttemptRecord()
    gave_up = f"not started again: {record.decision.reason}" if record.decision.stops else ""
    return [message for message in (failure.message, record.remedy or failure.remedy, gave_up) if message]


def next_step(run_dir: Path, outcome: Outcome | None) -> str:
    """Return the line that tells the user which command comes next after this outcome."""
    if failed := failed_parts(run_dir, outcome):
        where = "in a pod that mounts the claim for runs, " if lies_elsewhere(run_dir) else ""
        commands = (part.command(quoted(own_directory(run_dir))) for part in failed)
        return f"Next: {where}{', then '.join(commands)}; the checkpoints are kept"
    if outcome is Outcome.FINISHED:
        if there := lies_elsewhere(run_dir):
            return f"Next: the model is in model/ of {there}, on the claim for runs; tuneyard report {quoted(run_dir)}"
        return f"Next: the model is in {run_dir / 'model'}; tuneyard evaluate {quoted(run_dir)} --prompts FILE"
    if outcome is Outcome.FATAL:
        logs, name = f"tuneyard logs {quoted(run_dir)}", quoted(run_dir)
        return f"Next: {logs}; change the job file, then tuneyard resume {name} --job JOB, or submit it anew"
    if outcome is not None and outcome.is_bad:
        return f"Next: tuneyard logs {quoted(run_dir)}; then tuneyard resume {quoted(run_dir)}"
    if outcome is None and not read_attempts(run_dir):
        return f"Next: tuneyard resume {quoted(run_dir)} starts it"
    return f"Next: tuneyard resume {quoted(run_dir)} goes on from the last checkpoint"
