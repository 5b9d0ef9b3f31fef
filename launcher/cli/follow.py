"""Following a run: a progress bar on a terminal, plain lines elsewhere, and what to do when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster import Status, backend
from cluster.rundir import read_attempts, read_progress
from launcher.cli.meter import duration_in_words
from launcher.cli.options import quoted
from launcher.cli.output import make_console, print_json
from launcher.errors import EXIT_CLUSTER, EXIT_OK, EXIT_RUN_FAILED, EXIT_SAVED
from launcher.finishing import failed_parts
from launcher.interrupts import exit_code_of
from launcher.learning.observed import record_run
from launcher.report import write_report
from launcher.rundata import backend_name, lies_elsewhere

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
START_SECONDS = 60.0
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
        status = _watch_with_bar(run_dir, console) if console.is_terminal else _watch_with_lines(run_dir, console)
    except KeyboardInterrupt as error:
        with suppress(OSError):  # the terminal may be gone
            click.echo(
                f"\nThe run goes on. Next: tuneyard status {quoted(run_dir)}, or tuneyard stop {quoted(run_dir)}",
                err=True,
            )
        return exit_code_of(error)
    return _end(run_dir, status, as_json)


def _watch(run_dir: Path, show: Callable[[dict[str, Any]], None], say: Callable[[str], None]) -> Status:
    """Calls `show` with each new progress, `say` with each restart, until the run is neither queued nor running."""
    where = backend(backend_name(run_dir))
    shown: dict[str, Any] = {}
    waits: set[str] = set()
    told = {record["attempt"] for record in read_attempts(run_dir) if record.get("outcome")}
    while True:
        status = where.status(run_dir)
        if status.state in ("queued", "running"):
            for record in unsaid_restarts(read_attempts(run_dir), told):
                say(restart_words(record))
        progress = read_progress(run_dir) or {}
        if progress and progress != shown and progress.get("attempt") == status.attempt:
            show(progress)
            shown = progress
        if status.state == "queued" and status.reason not in waits:
            waits.add(status.reason)
            say(f"queued: {status.reason}")
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


def _speaker(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def _watch_with_bar(run_dir: Path, console: Console) -> Status:
    columns = (
        TextColumn("{task.fields[state]:<10}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.fields[steps]}  {task.fields[facts]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, state="starting", steps="?", facts="")
        return _watch(run_dir, lambda progress: _advance(bar, task, progress), _speaker(console))


def _advance(bar: Progress, task: TaskID, progress: dict[str, Any]) -> None:
    steps = progress.get("max_steps")
    bar.update(
        task,
        completed=progress.get("step") or 0,
        total=steps,
        state=progress.get("state", ""),
        steps=steps or "?",
        facts=_facts(progress),
    )


def _facts(progress: dict[str, Any]) -> str:
    parts = []
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.4f}")
    if progress.get("tokens_per_second"):
        parts.append(f"{progress['tokens_per_second']:,.0f} tokens/s")
    return "  ".join(parts)


def _watch_with_lines(run_dir: Path, console: Console) -> Status:
    last: dict[str, Any] = {"time": 0.0, "state": ("", None), "text": ""}
    speak = _speaker(console)

    def show(progress: dict[str, Any]) -> None:
        now, state = time.monotonic(), (progress.get("state"), progress.get("attempt"))
        if now - last["time"] < LINE_SECONDS and state == last["state"]:
            return
        text = _line(progress)
        if text != last["text"]:
            last.update(time=now, state=state, text=text)
            speak(text)

    return _watch(run_dir, show, speak)


def _line(progress: dict[str, Any]) -> str:
    state, steps = progress.get("state", ""), progress.get("max_steps")
    if not steps:
        return str(state)
    step = f"step {progress.get('step') or 0}/{steps}"
    return f"{state:<10} {step}  {_facts(progress)}{_time_left(progress)}".rstrip()


def seconds_left(progress: dict[str, Any]) -> float | None:
    """What the remaining steps take at the present speed; None before there is one."""
    step, steps, tokens = progress.get("step"), progress.get("max_steps"), progress.get("tokens")
    speed = progress.get("tokens_per_second")
    return (steps - step) * tokens / step / speed if step and steps and tokens and speed else None


def _time_left(progress: dict[str, Any]) -> str:
    seconds = seconds_left(progress)
    return "" if seconds is None else f"  {duration_in_words(seconds)} left"


def _end(run_dir: Path, status: Status, as_json: bool) -> int:
    outcome = status.outcome or "unknown"
    record_run(run_dir)
    report = write_report(run_dir)
    failed = failed_parts(run_dir, outcome)
    if as_json:
        facts = {"run": str(run_dir), "attempt": status.attempt, "outcome": outcome, "report": str(report)}
        print_json(facts | {"failed_parts": [part.as_json() for part in failed]})
    else:
        _say(run_dir, outcome, status.reason, report)
    return EXIT_RUN_FAILED if failed else EXIT_BY_OUTCOME.get(outcome, EXIT_CLUSTER)


def _say(run_dir: Path, outcome: str, reason: str, report: Path) -> None:
    click.echo(f"outcome: {outcome}" + (f" ({reason})" if reason and reason != outcome else ""))
    for words in _last_words(run_dir, outcome):
        click.echo(words)
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
        return f"Next: {', then '.join(part.command(quoted(run_dir)) for part in failed)}; the checkpoints are kept"
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
