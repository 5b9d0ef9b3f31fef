"""Time from a prepared data folder to a rank's first batch, at two positions: `python -m benchmarks.seek [--json]`.

The same run is resumed at step 10 and at step 100,000, hundreds of epochs later. Both times belong to a fresh order,
as a new attempt makes it; the ratio of their medians is the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.data.pack.batch import Reduction, collate
from trainer.data.pack.epoch_steps import known_steps, order_key, remember_steps
from trainer.data.pack.global_order import GlobalOrder
from trainer.data.shards.shard import ROW
from trainer.data.shards.token_store import TokenStore

CONVERSATIONS, MEAN_TOKENS, MAX_LENGTH = 100_000, 300, 4096
POSITIONS = (10, 100_000)
REPEATS = 7


def write_store(folder: Path) -> None:
    """A shard of made-up conversations, lengths lognormal."""
    lengths = np.random.default_rng(0).lognormal(np.log(MEAN_TOKENS) - 0.5, 1.0, CONVERSATIONS)
    rows = np.zeros(CONVERSATIONS, ROW)
    rows["length"] = np.clip(lengths.astype(np.int64) + 2, 2, MAX_LENGTH)
    rows["targets"] = rows["length"] // 2
    rows["weight"] = 1
    rows["offset"] = np.cumsum(rows["length"]) - rows["length"]
    shard = folder / "shard-00000"
    shard.mkdir(parents=True)
    total = int(rows["length"].sum())
    np.save(shard / "rows.npy", rows)
    np.save(shard / "tokens.npy", np.zeros(total, np.uint32))
    np.save(shard / "mask.npy", np.ones(total, np.uint8))


def first_batch_seconds(data: Path, config: TrainerConfig, step: int) -> float:
    """Seconds from nothing to the first micro-batch of `step`."""
    started = time.perf_counter()
    store = TokenStore(data / "train")
    order = GlobalOrder(store, config, known_steps(data, order_key("synthetic", config)))
    pack = order.packs_of(step)[0]
    collate(store, [int(number) for number in pack], Reduction(store, "token"))
    return time.perf_counter() - started


def measure() -> dict[str, Any]:
    """Medians for both positions, taken in turns."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_store(data / "train")
        raw = tiny.trainer_config(
            Path("model"), Path("rows"), data={"max_length": MAX_LENGTH}, training={"max_steps": 10 * max(POSITIONS)}
        )
        raw["execution"] |= {"packs_per_step": 32, "accumulation": 32}
        config = TrainerConfig.model_validate(raw)
        started = time.perf_counter()
        order = GlobalOrder(TokenStore(data / "train"), config)
        epoch = order.locate(max(POSITIONS)).epoch
        counted_seconds = time.perf_counter() - started
        remember_steps(data, order_key("synthetic", config), order.steps_of_epochs)
        times: dict[int, list[float]] = {step: [] for step in POSITIONS}
        for _ in range(REPEATS):
            for step in POSITIONS:
                times[step].append(first_batch_seconds(data, config, step))
    medians = {step: statistics.median(found) for step, found in times.items()}
    return {
        "conversations": CONVERSATIONS,
        "epoch_of_last_position": epoch,
        "seconds": {str(step): round(seconds, 4) for step, seconds in medians.items()},
        "ratio": round(medians[POSITIONS[1]] / medians[POSITIONS[0]], 3),
        "seconds_without_memory": round(counted_seconds, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    result = measure()
    if as_json:
        print(json.dumps(result))
        return
    for step, seconds in result["seconds"].items():
        print(f"step {int(step):>7,}: first batch after {seconds:.3f} s")
    print(
        f"ratio {result['ratio']}; counting {result['epoch_of_last_position']} epochs anew would take "
        f"{result['seconds_without_memory']} s"
    )


if __name__ == "__main__":
    main()
