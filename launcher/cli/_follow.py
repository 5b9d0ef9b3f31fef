"""Following a run: a progress bar on a terminal, plain lines elsewhere, and what to do when it ends."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from cluster import ClusterError, Status, backend
from cluster.rundir import read_attempts, read_progress
from launcher.calibration.observed import record_run
from launcher.cli._meter import Meter
from launcher.cli._options import quoted
from launcher.cli._output import make_console, print_json
from launcher.cli._phases import read_phase, show_phase
from launcher.errors import EXIT_CLUSTER, EXIT_OK, EXIT_RUN_FAILED, EXIT_SAVED, TuneyardError
from launcher.interrupts import exit_code_of
from launcher.report.html import write_report
from launcher.runs.finishing import failed_parts
from launcher.runs.read import backend_name, lies_elsewhere, own_directory

POLL_SECONDS = 0.5
TOKENISING = "tokenising"
"""What the trainer calls it in phase.json, too."""
AROUND_TRAINING = {
    "starting": "starting",
    "preparing": TOKENISING,
    "loading": "loading",
    "finished": "exporting",
    "failed": "ending",
    "stopped": "ending",
}
"""States of the trainer in which no steps are made, and what goes on then."""
EXIT_BY_OUTCOME = {
    "finished": EXIT_OK,
    "stopped": EXIT_SAVED,
    "preempted": EXIT_SAVED,
    "walltime": EXIT_SAVED,
    "hang": EXIT_RUN_FAILED,
    "crashed": EXIT_RUN_FAILED,
    "fatal": EXIT_RUN_FAILED,
    "node_failure": EXIT_RUN_FAILED,
}
ENDINGS = {
    "finished": "finished",
    "stopped": "was stopped",
    "preempted": "was preempted",
    "walltime": "reached its walltime",
    "hang": "hung",
    "crashed": "crashed",
    "fatal": "failed for good",
    "node_failure": "lost its node",
}
CAUSE_CHARACTERS = 160


def follow(run_dir: Path, *, as_json: bool = False) -> int:
    """Shows a run until it ends, over restarts, and gives the exit code for its outcome.

    Ctrl-C stops following only; the run goes on.
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
    """Shows where the run is, and says each restart, until it is neither queued nor running."""
    where = backend(backend_name(run_dir))
    told = {record["attempt"] for record in read_attempts(run_dir) if record.get("outcome")}
    while True:
        status = where.status(run_dir)
        if status.state in ("queued", "running"):
            for record in unsaid_restarts(read_attempts(run_dir), told):
                meter.say(restart_words(record))
                meter.begin_anew()
        progress = read_progress(run_dir) or {}
        if status.state == "queued":
            meter.show("queued", facts=status.reason)
        elif progress and progress.get("attempt") == status.attempt:
            show_progress(meter, progress, read_phase(run_dir))
        elif status.state == "running" and (phase := read_phase(run_dir)).get("phase") == TOKENISING:
            show_phase(meter, phase)  # in a job of its own, before there is an attempt
        elif status.state == "running":
            meter.show("starting" if status.attempt is not None else "waiting", facts=status.reason)
        if status.state not in ("queued", "running", "unknown"):
            return status
        time.sleep(POLL_SECONDS)


def unsaid_restarts(records: list[dict[str, Any]], told: set[int]) -> list[dict[str, Any]]:
    """Attempts that ended and are followed by another one, each given once; `told` remembers them.

    A machine that is taken away restarts elsewhere and later, if at all: that is said when the next attempt is there.
    """
    newest = max((record["attempt"] for record in records), default=0)
    found = []
    for record in records:
        decision = record.get("decision") or {}
        waits = decision.get("action") == "restart" and bool(decision.get("wait_seconds"))
        if record.get("outcome") and record["attempt"] not in told and (waits or record["attempt"] < newest):
            told.add(record["attempt"])
            found.append(record)
    return found


def restart_words(record: dict[str, Any]) -> str:
    """One line about an attempt that ended and the one that comes: `attempt 1 crashed at step 12 (...); ...`."""
    step, cause = record.get("last_step"), str(record.get("cause") or "").splitlines()
    at = "" if step is None else f" at step {step}"
    why = f" ({cause[0][:CAUSE_CHARACTERS]})" if cause else ""
    wait = (record.get("decision") or {}).get("wait_seconds") or 0
    when = f"starts in {wait:.0f} s" if wait else "starts"
    return f"attempt {record['attempt']} {ENDINGS[record['outcome']]}{at}{why}; attempt {record['attempt'] + 1} {when}"


def show_progress(meter: Meter, progress: dict[str, Any], phase: dict[str, Any]) -> None:
    """Where the trainer is: what is being counted, else its steps, else only what it does and for how long."""
    state, steps = str(progress.get("state") or "starting"), progress.get("max_steps")
    counted = phase.get("phase") == "evaluating" or state in AROUND_TRAINING
    if steps and meter.current == "training" and state in ("finished", "stopped"):  # its bar ends where training did
        meter.show("training", progress.get("step") or 0, steps, unit="steps", facts=_facts(progress))
    if phase and counted:
        show_phase(meter, phase)
    elif steps and state not in AROUND_TRAINING:
        facts, left = _facts(progress), seconds_left(progress)
        meter.show("training", progress.get("step") or 0, steps, unit="steps", facts=facts, left_seconds=left)
    else:
        meter.show(AROUND_TRAINING.get(state, state))


def _facts(progress: dict[str, Any]) -> str:
    parts = [str(progress["state"])] if progress.get("state") in ("saving", "evaluating") else []
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.4f}")
    if progress.get("tokens_per_second"):
        parts.append(f"{progress['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def seconds_left(progress: dict[str, Any]) -> float | None:
    """What the remaining steps take at the present speed; None before there is one."""
    step, steps, tokens = progress.get("step"), progress.get("max_steps"), progress.get("tokens")
    speed = progress.get("tokens_per_second")
    return (steps - step) * tokens / step / speed if step and steps and tokens and speed else None


def _end(run_dir: Path, status: Status, as_json: bool) -> int:
    outcome = status.outcome or "unknown"
    record_run(run_dir)
    report = _report(run_dir)
    failed = failed_parts(run_dir, outcome)
    if as_json:
        facts = {"run": str(run_dir), "attempt": status.attempt, "outcome": outcome, "report": report}
        print_json(facts | {"failed_parts": [part.as_json() for part in failed]})
    else:
        _say(run_dir, outcome, status.reason, report)
    return EXIT_RUN_FAILED if failed else EXIT_BY_OUTCOME.get(outcome, EXIT_CLUSTER)


def _report(run_dir: Path) -> str | None:
    """Where the report is; that it cannot be written is said, and hides no outcome."""
    try:
        return str(write_report(run_dir))
    except (TuneyardError, ClusterError) as error:
        click.echo(f"no report: {error}", err=True)
        return None


def _say(run_dir: Path, outcome: str, reason: str, report: str | None) -> None:
    click.echo(f"outcome: {outcome}" + (f" ({reason})" if reason and reason != outcome else ""))
    for words in _last_words(run_dir, outcome):
        click.echo(words)
    if report is not None:
        click.echo(f"report: {report}")
    click.echo(next_step(run_dir, outcome))


def _last_words(run_dir: Path, outcome: str) -> list[str]:
    """What the trainer said, what to do about it, and why the run is not started again."""
    if outcome in ("finished", "stopped"):
        return [part.words() for part in failed_parts(run_dir, outcome)]
    failure, records = (read_progress(run_dir) or {}).get("failure") or {}, read_attempts(run_dir)
    record = records[-1] if records else {}
    decision = record.get("decision") or {}
    gave_up = f"not started again: {decision['reason']}" if decision.get("action") == "stop" else ""
    words = (failure.get("message"), record.get("remedy") or failure.get("remedy"), gave_up)
    return [str(text) for text in words if text]


def next_step(run_dir: Path, outcome: str | None) -> str:
    """What one does after this outcome."""
    if failed := failed_parts(run_dir, outcome):
        where = "in a pod that mounts the claim for runs, " if lies_elsewhere(run_dir) else ""
        commands = (part.command(quoted(own_directory(run_dir))) for part in failed)
        return f"Next: {where}{', then '.join(commands)}; the checkpoints are kept"
    if outcome == "finished":
        if there := lies_elsewhere(run_dir):
            return f"Next: the model is in model/ of {there}, on the claim for runs; tuneyard report {quoted(run_dir)}"
        return f"Next: the model is in {run_dir / 'model'}; tuneyard evaluate {quoted(run_dir)} --prompts FILE"
    if outcome == "fatal":
        logs, name = f"tuneyard logs {quoted(run_dir)}", quoted(run_dir)
        return f"Next: {logs}; change the job file, then tuneyard resume {name} --job JOB, or submit it anew"
    if outcome in ("crashed", "hang", "node_failure"):
        return f"Next: tuneyard logs {quoted(run_dir)}; then tuneyard resume {quoted(run_dir)}"
    if outcome is None and not read_attempts(run_dir):
        return f"Next: tuneyard resume {quoted(run_dir)} starts it"
    return f"Next: tuneyard resume {quoted(run_dir)} goes on from the last checkpoint"
