"""How long training waits for a save: beside training against a synchronous one, with and without hashing.

`python -m benchmarks.saving [--json]`. Two real ranks (Gloo) hold a model sharded by FSDP2. Each way of saving is
measured in turns in one run: `synchronous` waits until the checkpoint is published; `overlapped` trains on until
all writers are done, and counts only the time spent in the store's calls.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support import tiny
from tests.support.ranks import run_on_ranks

REPEATS = 5
RANKS = 2
SHAPE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 12}


def save_times(folder: str, raw: dict[str, Any]) -> dict[str, Any]:
    """One rank's medians in seconds, by way of saving."""
    from trainer.checkpoint.format import safetensors_file
    from trainer.config import TrainerConfig
    from trainer.engines import build_engine
    from trainer.model.build import build_model

    config = TrainerConfig.model_validate(raw)
    engine = build_engine(build_model(config), config)
    unhashed = SimpleNamespace(sha256=_NoHash)
    times: dict[str, list[float]] = {"synchronous": [], "overlapped": [], "overlapped, no hash": []}
    size = 0
    for step in range(REPEATS + 1):
        for number, way in enumerate(times):
            safetensors_file.hashlib = unhashed if way.endswith("no hash") else hashlib  # type: ignore[assignment]
            seconds, size = _one_save(Path(folder), engine, 10 * step + number + 1, overlapped=way != "synchronous")
            if step:  # the first round touches the host's memory for the first time
                times[way].append(seconds)
    return {"seconds": {way: statistics.median(found) for way, found in times.items()}, "bytes": size}


class _NoHash:
    def update(self, part: Any) -> None: ...

    def hexdigest(self) -> str:
        return ""


def _one_save(folder: Path, engine: Any, step: int, *, overlapped: bool) -> tuple[float, int]:
    """Seconds that training waited, and the size of the checkpoint."""
    from trainer.checkpoint.format.manifest import Manifest
    from trainer.checkpoint.store import CheckpointStore
    from trainer.runtime.collectives import Ranks

    ranks = Ranks()
    store = CheckpointStore(folder / "checkpoints", ranks, 1, lambda _: None)
    manifest = Manifest(step, 0, "fsdp2", ranks.size, {}, {}, {}, {}, {})
    ranks.barrier()
    pending = store.start(engine, manifest)
    if overlapped:
        while ranks.any(not pending.written).wait()[0]:
            time.sleep(0.02)  # a GPU would be training here, and leave the CPU to the writer
    result = store.finish(pending)
    assert result.folder is not None, result.problems
    return result.stall_seconds, result.written_bytes


def measure() -> dict[str, Any]:
    """The slowest rank's medians."""
    folder = Path(tempfile.mkdtemp(prefix="saving-"))
    try:
        model = tiny.make_model(folder / "model", **SHAPE, num_key_value_heads=12)
        raw = tiny.trainer_config(
            model, folder / "rows", execution={"engine": "fsdp2", "world_size": RANKS, "accumulation": 2}
        )
        ranks = run_on_ranks(save_times, RANKS, str(folder), raw)
    finally:
        shutil.rmtree(folder)
    seconds = {way: round(max(rank["seconds"][way] for rank in ranks), 4) for way in ranks[0]["seconds"]}
    return {
        "checkpoint_bytes": ranks[0]["bytes"],
        "seconds": seconds,
        "stall_share": round(seconds["overlapped"] / seconds["synchronous"], 4),
        "hash_stall_seconds": round(seconds["overlapped"] - seconds["overlapped, no hash"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    result = measure()
    if as_json:
        print(json.dumps(result))
        return
    print(f"checkpoint of {result['checkpoint_bytes'] / 1e6:,.0f} MB, {RANKS} ranks; training waits")
    for way, seconds in result["seconds"].items():
        print(f"  {way:<20} {seconds:.3f} s")
    print(f"overlapped / synchronous = {100 * result['stall_share']:.1f} %")


if __name__ == "__main__":
    main()
