"""A small, seeded campaign of the chaos harness; `benchmarks/results/chaos.json` records the large one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from trainer.config import ENGINES

ROOT = Path(__file__).parents[2]
FAULTS = 25


def test_struck_runs_lose_no_checkpoint_and_end_where_undisturbed_ones_end() -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--faults", str(FAULTS), "--seed", "4", "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    found = json.loads(ended.stdout)
    assert found["faults"] >= FAULTS
    assert found["lost_checkpoints"] == found["hangs"] == 0
    assert found["bit_equal"] is found["order_exact"] is True
    assert found["problems"] == []
    assert set(found["by_engine"]) == set(ENGINES)
    assert len(found["by_kind"]) >= 8, "many kinds of fault"


def test_the_recorded_campaign_covers_everything() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "chaos.json").read_text())
    assert recorded["faults"] >= 1000
    assert recorded["lost_checkpoints"] == recorded["hangs"] == 0
    assert recorded["bit_equal"] is recorded["order_exact"] is recorded["clean"] is True
    assert set(recorded["by_engine"]) == set(ENGINES)
    assert recorded["runs_moved"] and recorded["runs_on_constant_ranks"]
