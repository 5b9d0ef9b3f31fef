"""Fits the constants of the speed model, and says how well they do on sources that they were not fitted to.

    python -m benchmarks.sizing.speed_fit ROWS.csv             # the constants
    python -m benchmarks.sizing.speed_fit ROWS.csv --held-out  # leave one source out, for each source

Coordinate descent over few constants, each drawn to where counting or other people's measurements put it. Errors are
absolute logarithms, bent so that misread rows do not pull, and each source weighs as the root of its rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.sizing.speed import Scored, kendall, per_gpu, scored, source_family, summary
from benchmarks.sizing.speed_rows import UNKNOWN_LENGTH, Reading, Row, UnreadableError, read_row
from launcher.sizing.speed.kernels import Fitted

PRIOR = Fitted(
    sustained={"ampere": 0.95, "hopper": 0.85, "blackwell": 0.8, "turing": 0.6, "ada": 0.95, "cdna": 0.7},
    memory=0.85,
    flash={"ampere": 0.6, "hopper": 0.45, "blackwell": 0.4, "turing": 0.25, "ada": 0.6, "cdna": 0.4},
    first_flash=0.6,
    cudnn=0.7,
    eager_bytes=30.0,
    host_us=9.0,
    link=0.75,
    network=0.75,
    crowd=0.03,
    straggle=0.01,
    expert=0.7,
    routing=100.0,
    low_precision=4.0,
    low_rate=1.0,
    dequantise=0.3,
    unit_ms=0.4,
)
"""Where every fit starts: counts, data sheets and guesses, not the constants that are shipped."""
Sample = tuple[Row, Reading, float]
ROUNDS = 5
STEPS = (1.25, 0.8, 1.08, 0.926)
BEND = 0.35
PULL = 0.004
BOUNDS = {"sustained": 1.15, "memory": 0.95, "link": 0.9, "network": 0.95, "cudnn": 1.0, "expert": 1.0}
"""Largest values: a share of what the hardware has can hardly pass it."""
MOST_PER_LAYOUT = 2
"""The same layout measured in every release of a container is one measurement, not ten."""


def samples(rows: list[Row]) -> list[Sample]:
    """Rows that can be predicted and whose lengths are known."""
    found: list[Sample] = []
    seen: Counter[str] = Counter()
    for row in rows:
        name = "|".join(row[c] for c in row if c not in ("source", "measured_value"))
        seen[name] += 1
        if seen[name] > MOST_PER_LAYOUT:
            continue
        try:
            reading = read_row(row)
        except UnreadableError:
            continue
        if UNKNOWN_LENGTH not in reading.ambiguous:
            found.append((row, reading, per_gpu(reading)[0]))
    return found


def flat(fitted: Fitted) -> dict[str, float]:
    """Constants by dotted name."""
    values: dict[str, float] = {}
    for name, value in asdict(fitted).items():
        values.update(
            {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        )
    return values


def with_value(fitted: Fitted, name: str, value: float) -> Fitted:
    """The constants with one of them changed."""
    head, _, key = name.partition(".")
    return replace(fitted, **{head: {**getattr(fitted, head), key: value} if key else value})  # type: ignore[arg-type]


def cost(chosen: list[Sample], fitted: Fitted, start: Fitted) -> float:
    """Bent error of all samples, sources balanced, and what leaving the starting point costs."""
    sizes = Counter(source_family(row) for row, _, _ in chosen)
    total = weight = 0.0
    for row, reading, measured in chosen:
        share = 1 / math.sqrt(sizes[source_family(row)])
        error = abs(math.log(1 + scored(row, reading, measured, fitted).error))
        total += share * min(error, BEND + 0.1 * (error - BEND)) if error > BEND else share * error
        weight += share
    before = flat(start)
    return total / weight + PULL * sum(math.log2(value / before[name]) ** 2 for name, value in flat(fitted).items())


def fit(chosen: list[Sample], start: Fitted = PRIOR, rounds: int = ROUNDS) -> Fitted:
    """The constants that these samples ask for."""
    best, lowest = start, cost(chosen, start, start)
    for _ in range(rounds):
        for name in flat(best):
            for step in STEPS:
                value = flat(best)[name] * step
                if value > BOUNDS.get(name.partition(".")[0], math.inf):
                    continue
                trial = with_value(best, name, value)
                tried = cost(chosen, trial, start)
                if tried < lowest - 1e-6:
                    best, lowest = trial, tried
    return best


def held_out(chosen: list[Sample]) -> dict[str, Any]:
    """Errors on each source with constants fitted to all the others."""
    found: dict[str, Any] = {}
    everything: list[Scored] = []
    for family in sorted({source_family(row) for row, _, _ in chosen}):
        others = [sample for sample in chosen if source_family(sample[0]) != family]
        fitted = fit(others)
        done = [scored(*sample, fitted) for sample in chosen if source_family(sample[0]) == family]
        found[family] = {**summary(done), "constants": {k: round(v, 4) for k, v in flat(fitted).items()}}
        everything += done
    logs = sorted(abs(math.log(1 + entry.error)) for entry in everything)
    spread = math.exp(logs[int(0.9 * len(logs))])
    overall = {**summary(everything), "kendall_tau": kendall(everything), "nine_in_ten_within_factor": spread}
    return {"all": overall, "by_source": found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--held-out", action="store_true")
    arguments = parser.parse_args()
    with arguments.rows.open(encoding="utf-8", newline="") as file:
        chosen = samples(list(csv.DictReader(file)))
    if arguments.held_out:
        print(json.dumps(held_out(chosen), indent=1))
        return
    fitted = fit(chosen)
    done = [scored(*sample, fitted) for sample in chosen]
    print(json.dumps({"constants": flat(fitted), "errors": summary(done), "kendall_tau": kendall(done)}, indent=1))


if __name__ == "__main__":
    main()
