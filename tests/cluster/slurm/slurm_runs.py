"""Runs on the test cluster: the stand-in trainer for lives and deaths, real ranks for what they train."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cluster.slurm.backend import SlurmBackend
from slurm.testbed import Testbed
from tests.cluster.outcomes.standin_run import FOR_EVER, STANDIN, StandinRun
from tests.support import tiny

ROOT = Path(__file__).parents[3]
SLOW = Path(__file__).parent / "slow"
STEP_SECONDS = 0.25
JOB = """
name: {name}
model: {{path: ./model}}
data: {{train: [{{path: ./rows.jsonl}}], max_length: 512}}
training: {{max_steps: {steps}, learning_rate: 0.01, lr_scheduler_type: {schedule}, warmup_steps: 0,
  tokens_per_step: 2048, full_determinism: true}}
checkpoint: {{{checkpoint}}}
logging: {{every_seconds: 0}}
resources: {{gpu: none, engine: zero2, {resources}}}
cluster: {{profile: {profile}}}
"""
PROFILE = "{{backend: slurm, partition: {partition}, exclusive: {exclusive}, gpu_request: none{more}}}"
SLOWLY = f", environment: {{PYTHONPATH: {SLOW}, TEST_STEP_SECONDS: '{STEP_SECONDS}'}}"
"""Of a profile: steps that take their time."""


class SlurmRun(StandinRun):
    """One run of the stand-in as a SLURM job."""

    def __init__(self, bed: Testbed, folder: Path, trainer: dict[str, Any] | None = None, **launch: Any) -> None:
        self.bed = bed
        facts = {"nodes": 2, "ranks_per_node": 1, "walltime_seconds": 600, **launch}
        super().__init__(SlurmBackend(), folder, trainer or FOR_EVER, slurm_launch(**facts))


def slurm_launch(slurm: dict[str, Any] | None = None, **launch: Any) -> dict[str, Any]:
    """plan.json's `launch` of a stand-in on the test cluster."""
    site = {"partition": "low", **(slurm or {})}
    site["environment"] = {"PYTHONPATH": str(STANDIN), **site.get("environment", {})}
    return {"backend": "slurm", **launch, "slurm": site}


def tuneyard(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it; this test's SLURM is in the environment."""
    command = [sys.executable, "-c", "from launcher.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


def write_job(
    folder: Path, name: str, profile: str, resources: str, *, checkpoint: str, steps: int, schedule: str = "constant"
) -> None:
    """A job file of real ranks. On a constant schedule the state of a step does not depend on where the run ends."""
    text = JOB.format(
        name=name, profile=profile, resources=resources, checkpoint=checkpoint, steps=steps, schedule=schedule
    )
    (folder / f"{name}.yaml").write_text(text)


def write_profile(folder: Path, name: str, partition: str, *, exclusive: bool = False, more: str = "") -> str:
    """A site profile; gives how a job file names it."""
    text = PROFILE.format(partition=partition, exclusive=str(exclusive).lower(), more=more)
    (folder / f"site-{name}.yaml").write_text(text)
    return f"./site-{name}.yaml"


def make_model_and_rows(folder: Path) -> None:
    tiny.make_model(folder / "model")
    tiny.write_rows(folder / "rows.jsonl", 300)


def make_job(folder: Path, steps: int) -> None:
    """job.yaml for two nodes of the test cluster with a rank each, local.yaml for two ranks here."""
    make_model_and_rows(folder)
    common = {"steps": steps, "schedule": "cosine", "checkpoint": "every_steps: 25"}
    site = write_profile(folder, "low", "low", exclusive=True, more=SLOWLY)
    write_job(folder, "job", site, "cpu_ranks: 1, nodes: 2, grace_seconds: 15, walltime: 30m", **common)
    write_job(folder, "local", "local", "cpu_ranks: 2", **common)


def submitted(job: str, folder: Path) -> Path:
    """Submits a job file of a folder; gives the run directory."""
    done = tuneyard("submit", f"{job}.yaml", "--detach", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["run"])
