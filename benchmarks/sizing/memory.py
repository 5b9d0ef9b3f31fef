"""Scores the memory model against published measurements: errors by source and method, and verdicts against labels."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.sizing.memory_rows import CannotPredictError, Case, Row, case_of, cumulated
from launcher.errors import JobError
from launcher.sizing.memory import Memory
from launcher.sizing.memory.limits import memory_of

LABELS = ("oom", "fits")
MISSES = 20


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One row with its prediction."""

    case: Case
    memory: Memory

    @property
    def predicted(self) -> float:
        """The number of the kind that was measured, GiB."""
        numbers = {"allocated": self.memory.allocated, "reserved": self.memory.reserved}
        return numbers.get(self.case.kind, self.memory.nvidia_smi)

    @property
    def error(self) -> float:
        """Predicted over measured, less one: below 0 is a peak that was foreseen too small."""
        return self.predicted / self.case.gib - 1


def score_row(row: Row) -> Scored:
    """One row with its prediction.

    Raises:
        CannotPredictError: with the reason.
    """
    try:
        case = case_of(row)
        return Scored(case=case, memory=memory_of(case.given))
    except JobError as error:
        raise CannotPredictError(error.message) from error
    except (KeyError, ValueError, ArithmeticError) as error:
        raise CannotPredictError(f"the row cannot be read: {type(error).__name__} {error}") from error


def score_all(rows: Iterable[Row]) -> tuple[list[Scored], Counter[str]]:
    """All rows that can be predicted, and for the rest the reasons with their numbers."""
    done, reasons = [], Counter[str]()
    for row in cumulated(list(rows)):
        try:
            done.append(score_row(row))
        except CannotPredictError as reason:
            reasons[str(reason)] += 1
    return done, reasons


def score(rows: Iterable[Row]) -> dict[str, Any]:
    """Errors of all memory rows by kind, method and source; verdicts on labels; what was left out and why.

    The headline is about peaks of the allocator, where the file has any; else about all measurements.
    """
    done, reasons = score_all(rows)
    measured = [entry for entry in done if entry.case.kind not in LABELS]
    labelled = [entry for entry in done if entry.case.kind in LABELS]
    headline = [entry for entry in measured if entry.case.kind == "allocated"] or measured
    verdicts = verdict_table(labelled)
    return {
        **summary(headline),
        "headline": "allocated peaks" if headline and headline[0].case.kind == "allocated" else "all measurements",
        "false_fits": verdicts.get("oom", {}).get("fits", 0),
        "false_no": verdicts.get("fits", {}).get("no", 0),
        "verdicts": verdicts,
        "by_method": _by(headline, lambda entry: entry.case.method),
        "by_source": _by(headline, lambda entry: entry.case.source),
        "by_kind": _by(measured, lambda entry: entry.case.kind),
        "by_grade": _by(measured, lambda entry: entry.case.grade),
        "inside_interval": _inside(headline),
        "not_predicted": dict(reasons.most_common()),
        "misses": [_miss(entry) for entry in sorted(headline, key=lambda e: -abs(e.error))[:MISSES]],
    }


def summary(done: list[Scored]) -> dict[str, Any]:
    """Rows, median, p90, shares within 10 and 15 %, and extremes of the relative error."""
    if not done:
        empty = ("median", "p90", "within_10", "within_15", "worst_over", "worst_under")
        return {"rows": 0, **dict.fromkeys(empty)}
    errors = sorted(abs(entry.error) for entry in done)
    return {
        "rows": len(errors),
        "median": statistics.median(errors),
        "p90": errors[min(len(errors) - 1, int(0.9 * len(errors)))],
        "within_10": sum(error <= 0.10 for error in errors) / len(errors),
        "within_15": sum(error <= 0.15 for error in errors) / len(errors),
        "worst_over": max(entry.error for entry in done),
        "worst_under": min(entry.error for entry in done),
    }


def _by(done: list[Scored], name: Callable[[Scored], str]) -> dict[str, Any]:
    groups: dict[str, list[Scored]] = defaultdict(list)
    for entry in done:
        groups[name(entry)].append(entry)
    return {key: summary(groups[key]) for key in sorted(groups)}


def _inside(done: list[Scored]) -> float | None:
    """Share of measurements inside the interval that was given with the prediction."""
    inside = [entry.memory.interval[0] <= entry.case.gib <= entry.memory.interval[1] for entry in done]
    return sum(inside) / len(inside) if inside else None


def verdict_table(labelled: list[Scored]) -> dict[str, dict[str, int]]:
    """How often each verdict met each label."""
    table: dict[str, dict[str, int]] = {}
    for entry in labelled:
        row = table.setdefault(entry.case.kind, dict.fromkeys(("fits", "tight", "uncertain", "no"), 0))
        row[entry.memory.verdict or "uncertain"] += 1
    return table


def _miss(entry: Scored) -> dict[str, Any]:
    row = entry.case.row
    what = " ".join(row[k] for k in ("model", "method", "parallelism", "n_gpus", "micro_batch", "seq_len"))
    return {
        "source": entry.case.source,
        "row": f"{what} {row['precision']} {row['notes'][:60]}",
        "measured": round(entry.case.gib, 2),
        "predicted": round(entry.predicted, 2),
        "error": round(entry.error, 3),
        "phase": entry.memory.busiest.name,
    }


def render(result: dict[str, Any]) -> str:
    """The scores as text for a terminal."""
    lines = [f"Memory: {result['rows']} rows ({result['headline']})", _line("all", result)]
    for title in ("by_method", "by_source", "by_kind"):
        lines += ["", title.replace("_", " ").capitalize()]
        lines += [_line(name, part) for name, part in result[title].items()]
    lines += ["", "Verdicts on labels (label: fits, tight, uncertain, no)"]
    lines += [
        f"  {label:16}{'  '.join(f'{k} {v}' for k, v in row.items())}" for label, row in result["verdicts"].items()
    ]
    lines += ["", f"Not predicted: {sum(result['not_predicted'].values())} rows"]
    lines += [f"  {count:4}  {reason}" for reason, count in result["not_predicted"].items()]
    lines += ["", "Largest misses"]
    lines += [
        f"  {m['error']:+.1%}  {m['measured']} -> {m['predicted']}  {m['source']}: {m['row']}" for m in result["misses"]
    ]
    return "\n".join(lines)


def _line(name: str, part: dict[str, Any]) -> str:
    if not part["rows"]:
        return f"  {name:20} no rows"
    return (
        f"  {name:20}{part['rows']:5} rows  median {part['median']:6.1%}  p90 {part['p90']:6.1%}  "
        f"within 10 % {part['within_10']:4.0%}, 15 % {part['within_15']:4.0%}  "
        f"worst {part['worst_under']:+.1%} {part['worst_over']:+.1%}"
    )
