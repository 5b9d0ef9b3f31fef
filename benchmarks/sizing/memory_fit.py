"""Cross-validates the memory model's fitted constants by whole source: python -m benchmarks.sizing.memory_fit ROWS.csv.

For each source, the constants are fitted on all other sources (coordinate search on a grid around their physical
value) and the source is scored with what came out. What is counted on source code is not a constant and stays.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.sizing.memory import LABELS, Scored, score_all, summary
from benchmarks.sizing.memory_rows import read_rows
from launcher.sizing.memory import activations, limits, predict
from launcher.sizing.memory.limits import memory_of
from rundir.quantities import GIB

SWEEPS = 2
"""Rounds of the coordinate search."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """One fitted number, where it stands, and the values that are tried."""

    module: ModuleType
    name: str
    tried: tuple[float, ...]

    def set(self, value: float) -> None:
        """Puts a value in its place."""
        setattr(self.module, self.name, value)

    def get(self) -> float:
        """The value in its place."""
        return float(getattr(self.module, self.name))


OF_ALLOCATED = (
    Constant(module=activations, name="LOSS_HIDDEN_BYTES", tried=(0, 2, 4, 6, 8, 12)),
    Constant(module=activations, name="TOP_COPIES", tried=(0, 1, 2, 3, 4)),
    Constant(module=predict, name="SMALL_BUFFERS", tried=(0, 0.02 * GIB, 0.05 * GIB, 0.1 * GIB)),
)
OF_PROCESS = (
    Constant(module=limits, name="CACHED_SHARE", tried=(0.2, 0.35, 0.5, 0.65, 0.8)),
    Constant(module=limits, name="ROUNDING_SHARE", tried=(0.0, 0.04, 0.07, 0.1, 0.15)),
    Constant(module=limits, name="CONTEXT_GIB", tried=(0.1, 0.3, 0.5, 0.8)),
    Constant(module=limits, name="COMMUNICATORS_GIB", tried=(1.0, 2.0, 3.0, 4.0)),
)


def again(entries: list[Scored]) -> list[Scored]:
    """The same rows, predicted with the constants as they stand now."""
    return [Scored(case=e.case, memory=memory_of(e.case.given)) for e in entries]


def loss(entries: list[Scored]) -> float:
    """Mean over sources of the mean error, large errors capped: no source counts more for having more rows."""
    groups: dict[str, list[float]] = defaultdict(list)
    for entry in again(entries):
        groups[entry.case.source].append(min(abs(entry.error), 0.5))
    return statistics.mean(statistics.mean(errors) for errors in groups.values())


def fit(constants: tuple[Constant, ...], entries: list[Scored]) -> dict[str, float]:
    """Sets each constant to the best of its values, one after the other."""
    for _ in range(SWEEPS):
        for constant in constants:
            losses = []
            for value in constant.tried:
                constant.set(value)
                losses.append((loss(entries), value))
            constant.set(min(losses)[1])
    return {constant.name: constant.get() for constant in constants}


def held_out(constants: tuple[Constant, ...], entries: list[Scored]) -> dict[str, Any]:
    """Scores of every source under constants that were fitted without it."""
    shipped = {constant: constant.get() for constant in constants}
    by_source, every = {}, []
    for source in sorted({entry.case.source for entry in entries}):
        others = [entry for entry in entries if entry.case.source != source]
        values = fit(constants, others) if others else {}
        scored = again([entry for entry in entries if entry.case.source == source])
        by_source[source] = summary(scored) | {"constants": values}
        every += scored
        for constant, value in shipped.items():
            constant.set(value)
    return {"held_out": summary(every), "by_source": by_source, "shipped": {c.name: v for c, v in shipped.items()}}


def main() -> None:
    """Reads the rows, cross-validates both groups of constants, prints JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing.memory_fit", description=__doc__)
    parser.add_argument("file", type=Path)
    done, _ = score_all(read_rows(parser.parse_args().file))
    allocated = [entry for entry in done if entry.case.kind == "allocated"]
    whole = [e for e in done if e.case.kind not in (*LABELS, "allocated") and e.case.grade != "Q:C"]
    result = {"allocated": held_out(OF_ALLOCATED, allocated), "process": held_out(OF_PROCESS, whole)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
