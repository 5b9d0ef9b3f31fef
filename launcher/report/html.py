"""The report of a run as one HTML file: no network, no scripts, nothing to install.

`read_run` gathers the facts, this module lays them out for the template, and the template escapes every text that
came from a job file, a data row or a model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from launcher import __version__
from launcher.calibration.observed import comparison
from launcher.errors import MachineError
from launcher.report import goodput
from launcher.report.charts import Chart, Point, Series, line_chart, smoothed
from launcher.report.preflight import preflight_findings, preflight_table, preflight_warnings
from launcher.runs.read import RunData, read_run
from rundir.attempts import AttemptRecord
from rundir.files import atomic_write
from rundir.metrics import Metrics
from rundir.outcome import Outcome
from rundir.paths import RunPaths
from rundir.quantities import elapsed, size

TEMPLATE = "report.html.jinja"
SMALL = {"width": 400, "height": 210}
SPEEDS: dict[str, Callable[[float], str]] = {"step seconds": "{:.3g} s".format, "tokens per second": "{:,.0f}".format}
"""Which rows of the comparison are no sizes, and how they are written."""
GOOD, WAITING, BAD = "good", "waiting", "bad"
MOST_REJECTED = 12
MOST_EXAMPLES = 12


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory and gives its path.

    Raises:
        MachineError: the file cannot be written.
        cluster.ClusterError: the run directory holds no plan, or a damaged one.
    """
    path = RunPaths(run_dir).report
    try:
        atomic_write(path, render(read_run(run_dir)), durable=False)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def render(run: RunData) -> str:
    """The report's HTML."""
    environment = Environment(
        loader=PackageLoader("launcher.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(**context(run))


def context(run: RunData) -> dict[str, Any]:
    """Everything that the template shows."""
    marks = boundaries(run)
    return {
        "name": run.name,
        "run_dir": str(run.run_dir),
        "outcome": run.outcome_label,
        "tone": tone(run.outcome),
        "failure": run.progress.failure.to_json() or None,
        "headline": headline(run),
        "loss_chart": loss_chart(run, marks),
        "small_charts": small_charts(run, marks),
        "preflight": preflight_table(run.preflight),
        "findings": preflight_findings(run.preflight),
        "warnings": preflight_warnings(run.preflight),
        "decisions": run.plan.decisions,
        "memory": memory_bar(run.plan.prediction),
        "caution": run.progress.caution,
        "compared": compared(run),
        "rejected": run.plan.rejected[:MOST_REJECTED],
        "num_rejected": len(run.plan.rejected),
        "attempts": [attempt_row(record) for record in run.attempts],
        "life": staying_alive(run.attempts),
        "evaluation": evaluation(run.evaluation),
        "job_text": run.job_text,
        "version": __version__,
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def tone(outcome: Outcome | None) -> str:
    """The colour of an outcome."""
    if outcome is Outcome.FINISHED:
        return GOOD
    return BAD if outcome is not None and outcome.is_bad else WAITING


def headline(run: RunData) -> list[tuple[str, str]]:
    """The few numbers that one looks for first."""
    progress, score = run.progress, run.evaluation.get("exact_match")
    found = [
        ("exact match", f"{100 * score:.1f} %" if score is not None else None),
        ("final loss", _number(progress.loss, "{:.4f}")),
        ("held-out loss", _number(run.evaluations[-1].eval_loss if run.evaluations else None, "{:.4f}")),
        ("steps", _of(progress.step, progress.max_steps)),
        ("tokens", _number(progress.tokens, "{:,.0f}")),
        ("tokens per second", _number(_median_speed(run), "{:,.0f}")),
        ("time in training", _duration(sum(r.seconds.get("train", 0) for r in run.attempts))),
        ("goodput", _goodput(run.attempts)),
        ("engine", _engine(run.plan.section("execution"))),
    ]
    return [(label, value) for label, value in found if value]


def _engine(execution: dict[str, Any]) -> str | None:
    if not execution:
        return None
    return f"{execution['engine']} on {execution['world_size']} x {execution['device']}"


def _goodput(records: list[AttemptRecord]) -> str | None:
    """Said only of a run that was interrupted: otherwise it tells how long a run is, not how well it lived."""
    found = goodput.account(records)
    return goodput.percent(found.goodput) if found and len(records) > 1 else None


def _number(value: float | None, form: str) -> str | None:
    return form.format(value) if isinstance(value, int | float) else None


def _of(value: Any, total: Any) -> str | None:
    return None if value is None else f"{value} of {total}" if total else str(value)


def _duration(seconds: float) -> str | None:
    return elapsed(seconds) if seconds > 0 else None


def _median_speed(run: RunData) -> float | None:
    speeds = sorted(line.tokens_per_second for line in run.training if line.tokens_per_second)
    return speeds[len(speeds) // 2] if speeds else None


def boundaries(run: RunData) -> list[tuple[float, str]]:
    """The steps at which an attempt took over, with how the one before it ended."""
    outcomes = {record.number: record.outcome for record in run.attempts}
    marks = []
    for before, after in zip(run.training, run.training[1:], strict=False):
        if after.attempt != before.attempt:
            outcome = None if before.attempt is None else outcomes.get(before.attempt)
            marks.append((float(before.step or 0), f"{outcome.label if outcome else 'interrupted'}, resumed"))
    return marks


def loss_chart(run: RunData, marks: list[tuple[float, str]]) -> Chart | None:
    """Training loss, as measured and smoothed, and held-out loss."""
    points = _points(run.training, "loss")
    series = [
        Series(label="training loss, each step", points=points, style="faint"),
        Series(label="training loss, smoothed", points=smoothed(points)),
        Series(label="held-out loss", points=_points(run.evaluations, "eval_loss"), style="dots"),
    ]
    return line_chart("Loss", series, marks=marks)


def small_charts(run: RunData, marks: list[tuple[float, str]]) -> list[Chart]:
    """Learning rate, gradient norm and speed."""
    wanted = (
        ("Learning rate", "learning_rate", True),
        ("Gradient norm", "grad_norm", True),
        ("Tokens per second", "tokens_per_second", True),
    )
    unnamed = [(step, "") for step, _ in marks]
    charts = [
        line_chart(
            title,
            [Series(label=title.lower(), points=_points(run.training, key))],
            marks=unnamed,
            from_zero=from_zero,
            **SMALL,
        )
        for title, key, from_zero in wanted
    ]
    return [chart for chart in charts if chart]


def _points(lines: Iterable[Metrics], name: str) -> list[Point]:
    values = ((line.step, getattr(line, name)) for line in lines)
    return [(float(step), value) for step, value in values if step is not None and value is not None]


def memory_bar(prediction: dict[str, Any] | None) -> dict[str, Any] | None:
    """The components of the binding phase, each with its share of what is usable."""
    if not prediction:
        return None
    parts = sorted(prediction["binding_components_bytes"].items(), key=lambda part: -part[1])
    limit = max(prediction.get("limit_bytes") or 0, prediction["peak_bytes"], 1)
    return {
        "parts": [(name.replace("_", " "), size(part, 2), 100 * part / limit) for name, part in parts],
        "peak": size(prediction["peak_bytes"], 2),
        "limit": size(limit, 2),
        "phase": prediction["binding_phase"],
        "parameters": prediction["parameters"],
        "trainable": prediction["trainable_parameters"],
    }


def compared(run: RunData) -> list[tuple[str, str, str, str]]:
    """What was predicted beside what was observed: name, both, and how far they are apart."""
    rows = []
    for name, said, seen in comparison(run.plan, run.observed):
        form: Callable[[float], str] = SPEEDS.get(name, partial(size, decimals=2))
        rows.append((name, form(said), form(seen), f"{100 * (said / seen - 1):+.0f} %"))
    return [*rows, *_bill(run)]


def _bill(run: RunData) -> list[tuple[str, str, str, str]]:
    """Hours and cost, once the run has finished: predicted, and of all its attempts."""
    prediction = run.plan.prediction
    hours = sum(record.seconds.get("train", 0) for record in run.attempts) / 3600
    if run.outcome is not Outcome.FINISHED or not prediction.get("hours") or not hours:
        return []
    share = f"{100 * (prediction['hours'] / hours - 1):+.0f} %"
    rows = [("time in training", f"{prediction['hours']:.3g} h", f"{hours:.3g} h", share)]
    if prediction.get("cost"):
        spent = prediction["cost"] * hours / prediction["hours"]
        rows.append(("cost", f"{prediction['cost']:,.2f} USD", f"{spent:,.2f} USD", share))
    return rows


def attempt_row(record: AttemptRecord) -> dict[str, Any]:
    """One attempt, for the table."""
    started, raw = record.started, record.to_json()
    return {
        "attempt": record.number,
        "outcome": record.outcome.label if record.outcome else "running",
        "tone": tone(record.outcome),
        "cause": goodput.short_cause(record),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(started)) if started else "",
        "steps": f"{raw.get('first_step', '')} to {raw.get('last_step', '')}",
        "nodes": ", ".join(record.nodes),
        "phases": ", ".join(f"{name} {seconds:.0f} s" for name, seconds in goodput.attempt_phases(record)),
        "lost": goodput.lost_text(record),
    }


def staying_alive(records: list[AttemptRecord]) -> dict[str, Any] | None:
    """Goodput, and where the time went as a stacked bar; nothing before an attempt has ended."""
    found = goodput.account(records)
    if found is None:
        return None
    return {
        "goodput": goodput.goodput_text(found),
        "wall": _duration(found.wall_seconds),
        "restarts": len(records) - 1,
        "decision": goodput.decision_text(records),
        "slices": [(part.label, _duration(part.seconds), part.share) for part in goodput.slices(found)],
    }


def evaluation(found: dict[str, Any]) -> dict[str, Any] | None:
    """Scores by tag, and some answers beside what was expected."""
    if not found:
        return None
    tags = [
        (tag, score.get("prompts", 0), score.get("exact_match"), score.get("contains"))
        for tag, score in sorted((found.get("by_tag") or {}).items())
    ]
    tags.append(("all", found.get("prompts", 0), found.get("exact_match"), found.get("contains")))
    return {"tags": tags, "examples": [_example(e) for e in _varied(found.get("examples") or [])]}


def _varied(examples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few examples of every tag, rather than many of the first."""
    seen: dict[str, int] = {}
    ranked = []
    for example in examples:
        tag = str(example.get("tag"))
        ranked.append((seen.get(tag, 0), example))
        seen[tag] = seen.get(tag, 0) + 1
    return [example for _, example in sorted(ranked, key=lambda pair: pair[0])][:MOST_EXAMPLES]


def _example(example: dict[str, Any]) -> dict[str, Any]:
    prompt = example.get("prompt") or []
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {
        "tag": example.get("tag", ""),
        "messages": [(str(m.get("role", "")), str(m.get("content", ""))) for m in messages],
        "expected": example.get("expected", ""),
        "answer": example.get("answer", ""),
        "right": bool(example.get("exact_match")),
    }
