"""Fill and speed of packing, against next-fit in the same run: `python -m benchmarks.packing [--json]`.

Lengths are lognormal. Next-fit is what the simplest trainers do; its fill is what packing must beat.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from trainer.data.pack.packing import pack

CASES = [(1_000_000, 780, 4096), (1_000_000, 800, 16_384), (1_000_000, 300, 8192), (200_000, 4000, 131_072)]
REPEATS = 3


def lengths_of(count: int, mean: float, capacity: int) -> np.ndarray:
    """Lognormal lengths from 1 to `capacity`."""
    drawn = np.random.default_rng(0).lognormal(np.log(mean) - 0.5, 1.0, count)
    return np.clip(drawn.astype(np.int64) + 1, 1, capacity)


def next_fit(lengths: np.ndarray, capacity: int) -> int:
    """Packs that next-fit needs."""
    packs, room = 0, 0
    for length in lengths.tolist():
        if length > room:
            packs, room = packs + 1, capacity
        room -= length
    return packs


def measure(count: int, mean: float, capacity: int) -> dict[str, Any]:
    """Median of several runs of one case."""
    lengths = lengths_of(count, mean, capacity)
    seconds, packs = [], 0
    for epoch in range(REPEATS):
        started = time.perf_counter()
        packs = len(pack(lengths, capacity, 0, epoch))
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    simple = next_fit(lengths, capacity)
    simple_seconds = time.perf_counter() - started
    median = statistics.median(seconds)
    total = int(lengths.sum())
    return {
        "conversations": count,
        "mean_length": mean,
        "capacity": capacity,
        "fill": total / (packs * capacity),
        "conversations_per_second": count / median,
        "next_fit_fill": total / (simple * capacity),
        "times_faster_than_next_fit": simple_seconds / median,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    results = [measure(*case) for case in CASES]
    if as_json:
        print(json.dumps(results, indent=1))
        return
    for r in results:
        print(
            f"{r['conversations']:>9,} x {r['mean_length']:>5} into {r['capacity']:>7}: fill {r['fill']:.4%} "
            f"(next-fit {r['next_fit_fill']:.2%}), {r['conversations_per_second'] / 1e6:.2f} M/s, "
            f"{r['times_faster_than_next_fit']:.1f} x next-fit's speed"
        )


if __name__ == "__main__":
    main()
