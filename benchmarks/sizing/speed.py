"""Scores the speed model against published measurements: error by source and method, and whether it ranks plans."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.sizing.speed_rows import OPEN_ACCUMULATION, UNKNOWN_LENGTH, Reading, Row, UnreadableError, read_row
from launcher.errors import JobError
from launcher.sizing.speed.kernels import FITTED, Fitted
from launcher.sizing.speed.predict import speed_of
from launcher.sizing.speed.work import model_flops

SPEED_UNIT_WORDS = ("/s", "mfu", "flop", "s/it", "s/step", "/iter", "per second", "seconds", "tps")
GOOD_SHARE = 0.15
POWERS = tuple(2**n for n in range(8))
SAME_SPEED = 0.03
"""Measurements nearer than this are one speed: their order says nothing."""


def is_speed_row(row: Row) -> bool:
    """Whether a row of a file of measurements is about speed."""
    return any(word in row.get("unit", "").lower() for word in SPEED_UNIT_WORDS)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One row with its prediction, both in the row's unit."""

    row: Row
    reading: Reading
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over measured speed, less one: above 0 is too fast."""
        return self.predicted / self.measured - 1


def per_gpu(reading: Reading) -> tuple[float, tuple[str, ...]]:
    """Measured tokens per second and GPU, and what had to be settled to know it."""
    given, layout, value = reading.given, reading.given.layout, reading.value
    tokens = layout.micro_batch * layout.length * layout.accumulation * layout.data_ranks * given.fill
    flops = model_flops(given.work, trained=given.trains_all, attended=given.keys)
    peak = given.gpu.peak_tflops(given.trainer.number_format or given.gpu.half) * 1e12
    if reading.unit == "tokens/s":
        total = value / layout.ranks
        each_possible = value * flops < peak and layout.ranks > 1 and "per-gpu" in reading.ambiguous
        return (value if each_possible else total), (("total or per GPU",) if layout.ranks > 1 else ())
    known = {
        "tokens/s/GPU": lambda: value,
        "samples/s": lambda: value * layout.length * given.fill / layout.ranks,
        "seconds/step": lambda: tokens / value / layout.ranks,
        "milliseconds/step": lambda: 1000 * tokens / value / layout.ranks,
        "mfu": lambda: (value / 100 if value > 1 else value) * given.gpu.tflops[given.gpu.half] * 1e12 / flops,
        "tflops": lambda: value * 1e12 / flops,
    }
    return known[reading.unit](), ()


def score_row(row: Row, fitted: Fitted = FITTED) -> Scored:
    """One row with its prediction.

    Raises:
        UnreadableError: the row cannot be predicted; the message says why.
    """
    reading = read_row(row)
    measured, _ = per_gpu(reading)
    return scored(row, reading, measured, fitted)


def scored(row: Row, reading: Reading, measured: float, fitted: Fitted) -> Scored:
    """A row that was read, with its prediction under these constants."""
    try:
        speed = speed_of(replace(reading.given, fitted=fitted))
    except JobError as error:
        raise UnreadableError(error.message) from error
    return Scored(row=row, reading=reading, measured=measured, predicted=speed.tokens_per_gpu)


def read_all(rows: Iterable[Row]) -> tuple[list[tuple[Row, Reading]], Counter[str]]:
    """All rows that can be read, and for the rest the reasons with their numbers."""
    readings: list[tuple[Row, Reading]] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        try:
            reading = read_row(row)
            speed_of(reading.given)
        except (UnreadableError, JobError) as reason:
            reasons[getattr(reason, "message", str(reason))] += 1
        else:
            readings.append((row, reading))
    return readings, reasons


def settled(readings: list[tuple[Row, Reading]], fitted: Fitted) -> list[tuple[Row, Reading]]:
    """Rows in seconds per step that do not say how many forward passes a step has, with a number for them.

    One number for a whole publication and method, the power of two whose steps physics finds least surprising:
    a single unknown, settled by many rows, and reported as such.
    """
    unknown: dict[str, list[Reading]] = defaultdict(list)
    for row, reading in readings:
        if OPEN_ACCUMULATION in reading.ambiguous:
            unknown[f"{source_family(row)} {row['method']}"].append(reading)
    chosen = {name: min(POWERS, key=lambda n: surprise(group, n, fitted)) for name, group in unknown.items()}
    return [
        (row, accumulated(reading, chosen[f"{source_family(row)} {row['method']}"]))
        if OPEN_ACCUMULATION in reading.ambiguous
        else (row, reading)
        for row, reading in readings
    ]


def accumulated(reading: Reading, passes: int) -> Reading:
    """The reading with so many forward passes in a step."""
    layout = replace(reading.given.layout, accumulation=passes)
    return replace(reading, given=replace(reading.given, layout=layout))


def surprise(group: list[Reading], passes: int, fitted: Fitted) -> float:
    """Median distance of measured and predicted speed, as a logarithm, with so many forward passes in a step."""
    tried = [accumulated(reading, passes) for reading in group]
    pairs = [(per_gpu(r)[0], speed_of(replace(r.given, fitted=fitted)).tokens_per_gpu) for r in tried]
    return statistics.median(abs(math.log(predicted / measured)) for measured, predicted in pairs)


def source_family(row: Row) -> str:
    """The publication a row comes from: repository or document, whatever the file and version."""
    return row["source"].split("@")[0].split()[0].split("/")[-1]


def score(rows: Iterable[Row], fitted: Fitted = FITTED) -> dict[str, Any]:
    """Errors of all speed rows: overall, by method, by source; the ranking of plans; what was left out and why."""
    readings, reasons = read_all(rows)
    done = [scored(row, reading, per_gpu(reading)[0], fitted) for row, reading in settled(readings, fitted)]
    sure = [entry for entry in done if not entry.reading.ambiguous]
    return {
        **summary(done),
        "kendall_tau": kendall(done),
        "without_ambiguous": summary(sure),
        "by_method": {name: summary(part) for name, part in grouped(done, lambda s: s.row["method"]).items()},
        "by_source": {name: summary(part) for name, part in grouped(done, lambda s: source_family(s.row)).items()},
        "ambiguous": dict(Counter(note for entry in done for note in entry.reading.ambiguous)),
        "not_predicted": dict(reasons),
        "misses": [miss(entry) for entry in sorted(done, key=lambda s: -abs(math.log(1 + s.error)))[:20]],
    }


def grouped(done: list[Scored], name: Any) -> dict[str, list[Scored]]:
    """Rows by a name, in the order of the names."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for entry in done:
        groups[name(entry)].append(entry)
    return dict(sorted(groups.items()))


def summary(done: list[Scored]) -> dict[str, Any]:
    """Rows, median, p90 and extremes of the relative error."""
    errors = sorted(abs(entry.error) for entry in done)
    if not errors:
        return {"rows": 0, "median": None, "p90": None, "within_15": None, "worst_over": None, "worst_under": None}
    return {
        "rows": len(errors),
        "median": statistics.median(errors),
        "p90": errors[min(len(errors) - 1, int(0.9 * len(errors)))],
        "within_15": sum(error <= GOOD_SHARE for error in errors) / len(errors),
        "worst_over": max(entry.error for entry in done),
        "worst_under": min(entry.error for entry in done),
    }


def miss(entry: Scored) -> dict[str, Any]:
    """A row that is far off, in a few words."""
    row = entry.row
    where = f"{row['model']} {row['method']} {row['n_gpus']}x{row['gpu']} {row['micro_batch']}x{row['seq_len']}"
    return {
        "source": source_family(row),
        "row": f"{where} {row['parallelism']} {row['precision']}",
        "measured": round(entry.measured, 1),
        "predicted": round(entry.predicted, 1),
    }


LAYOUT_COLUMNS = ("n_gpus", "parallelism", "micro_batch", "seq_len", "act_ckpt")


def kendall(done: list[Scored]) -> float | None:
    """Kendall's tau of plans: pairs of one publication, model, GPU, method and precision that differ in layout.

    Pairs whose measurements differ by less than 3 % are no evidence of an order and are left out; so are rows whose
    length is not known.
    """
    known = [entry for entry in done if UNKNOWN_LENGTH not in entry.reading.ambiguous]
    agree = total = 0
    for group in grouped(known, _plans).values():
        for one, other in itertools.combinations(group, 2):
            same_layout = all(one.row[column] == other.row[column] for column in LAYOUT_COLUMNS)
            if same_layout or abs(math.log(one.measured / other.measured)) < SAME_SPEED:
                continue
            total += 1
            agree += (one.measured > other.measured) == (one.predicted > other.predicted)
    return (2 * agree - total) / total if total else None


def _plans(entry: Scored) -> str:
    """What two rows share that are plans for one job."""
    row = entry.row
    return "|".join((source_family(row), *(row[c] for c in ("model", "gpu", "method", "precision"))))


def render(found: dict[str, Any]) -> str:
    """The score as text: a line for all rows, each method and each source, then what is far off."""
    parts = {"all": found, "without ambiguous": found["without_ambiguous"], **found["by_method"], **found["by_source"]}
    lines = [f"{'speed':<24}{'rows':>6}{'median':>9}{'p90':>9}{'<= 15 %':>9}{'worst over':>12}{'under':>8}"]
    lines += [_line(name, part) for name, part in parts.items() if part["rows"]]
    tau = found["kendall_tau"]
    lines.append(f"Kendall tau of plans: {tau:.3f}" if tau is not None else "no plans to rank")
    lines += [f"settled: {note}: {number} rows" for note, number in found["ambiguous"].items()]
    lines += [f"not predicted: {reason}: {number} rows" for reason, number in found["not_predicted"].items()]
    lines += [
        f"miss: {m['source']}: {m['row']}: {m['measured']} measured, {m['predicted']}" for m in found["misses"][:8]
    ]
    return "\n".join(lines)


def _line(name: str, part: dict[str, Any]) -> str:
    shares = "".join(f"{100 * part[key]:>7.1f} %" for key in ("median", "p90", "within_15"))
    return f"{name:<24}{part['rows']:>6}{shares}{100 * part['worst_over']:>10.0f} %{100 * part['worst_under']:>6.0f} %"
