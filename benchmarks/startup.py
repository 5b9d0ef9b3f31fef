"""How long the command line takes to answer, and whether a login node ever loads torch.

`python -m benchmarks.startup --json` prints medians of whole processes, as a person waits for them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-c", "from launcher.cli import main; main()")
HEAVY = ("torch", "transformers", "datasets")
PROBE = f"import sys, launcher, cluster; print([name for name in {HEAVY!r} if name in sys.modules])"
PLAN_PROBE = (
    "import sys; from launcher.cli import run; run(sys.argv[1:]); "
    f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
)

JOB_TINY = """\
name: startup
model: {path: model}
data: {train: [{path: train.jsonl}], max_length: 512}
resources: {gpu: none}
"""
JOB_405B = """\
name: big
model: {path: meta-llama/Llama-3.1-405B}
method: {kind: lora}
data: {train: [{path: train.jsonl}], max_length: 4096}
training: {max_steps: 1000}
"""
CONFIG_TINY = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 2048,
}


def measure(num_runs: int) -> dict[str, float | bool]:
    """Medians in seconds, an empty Python beside them, and whether anything heavy was imported."""
    with tempfile.TemporaryDirectory() as folder:
        job, big = write_job(Path(folder)), Path(folder) / "big.yaml"
        big.write_text(JOB_405B)
        return {
            "python_seconds": median_seconds([sys.executable, "-c", ""], num_runs),
            "help_seconds": median_seconds([*COMMAND, "--help"], num_runs),
            "plan_seconds": median_seconds([*COMMAND, "plan", str(job)], num_runs),
            "plan_405b_seconds": median_seconds([*COMMAND, "plan", str(big), "--gpu", "H100-80"], num_runs),
            "torch_imported": imports_heavy(job),
        }


def write_job(folder: Path) -> Path:
    """A job file with all that it names, small enough to fit anywhere."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG_TINY))
    (folder / "model" / "tokenizer.json").write_text("{}")
    (folder / "train.jsonl").write_text("{}\n")
    job = folder / "job.yaml"
    job.write_text(JOB_TINY)
    return job


def median_seconds(command: list[str], num_runs: int) -> float:
    """Median wall time of a process, after one run that warms the caches."""
    times = [seconds(command) for _ in range(num_runs + 1)][1:]
    return round(statistics.median(times), 4)


def seconds(command: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def imports_heavy(job: Path) -> bool:
    """Whether importing the packages, or planning a job, loads a deep-learning package."""
    bare = subprocess.run([sys.executable, "-c", PROBE], env=environment(), check=True, capture_output=True, text=True)
    command = [sys.executable, "-c", PLAN_PROBE, "plan", str(job), "--json"]
    planned = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    return bare.stdout.strip() != "[]" or planned.stderr.strip().splitlines()[-1] != "[]"


def environment() -> dict[str, str]:
    """This environment, with the repository importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Prints the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--runs", type=int, default=7, help="processes of each kind")
    options = parser.parse_args()
    found = measure(options.runs)
    print(json.dumps(found) if options.json else "\n".join(f"{k}: {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
