"""The benchmark of how fast the command line starts prints what CI reads."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_startup_benchmark_prints_what_it_promises() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.startup", "--json", "--runs", "1"]
    done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    times = {"python_seconds", "help_seconds", "plan_seconds", "plan_405b_seconds"}
    assert set(found) == {*times, "torch_imported"}
    assert found["torch_imported"] is False
