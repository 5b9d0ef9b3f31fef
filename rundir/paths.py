"""Where every file of a run directory lies, and which of them a copy of a run directory carries."""

from __future__ import annotations

import re
from pathlib import Path

PLAN = "plan.json"
PROGRESS = "progress.json"
FAILURE = "failure.json"
AFTER_TRAINING = "finishing.json"
ATTEMPTS = "attempts.jsonl"
STOP = "stop"
OBSERVED = "observed.json"
EVALUATION = "evaluation.json"
PHASE = "phase.json"
PREFLIGHT = "data/preflight.json"
FINGERPRINT = "data/fingerprint.json"
METRICS = "logs/metrics.jsonl"

MIRRORED = (ATTEMPTS, PROGRESS, PHASE, FAILURE, AFTER_TRAINING, OBSERVED, EVALUATION, PREFLIGHT)
"""What only the run writes and the command line reads, replaced as a whole: a copy of a run directory carries it."""
MIRRORED_LOGS = r"logs/attempt-\d{3,6}/[a-z0-9-]{1,40}\.(?:log|txt)"
"""Files that only grow, besides `METRICS`; of the ranks' logs, those that are asked for."""


def grows(path: str) -> bool:
    """Whether a mirrored file, by its path in the run directory, only grows."""
    return path == METRICS or re.fullmatch(MIRRORED_LOGS, path) is not None


class RunPaths:
    """The paths of one run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.job = run_dir / "job.yaml"
        self.plan = run_dir / PLAN
        self.attempts = run_dir / ATTEMPTS
        self.progress = run_dir / PROGRESS
        self.failure = run_dir / FAILURE
        self.phase = run_dir / PHASE
        self.after_training = run_dir / AFTER_TRAINING
        self.observed = run_dir / OBSERVED
        self.evaluation = run_dir / EVALUATION
        self.measured = run_dir / "measured.json"
        self.stop = run_dir / STOP
        self.agent_lock = run_dir / "agent.lock"
        self.data = run_dir / "data"
        self.preflight = run_dir / PREFLIGHT
        self.fingerprint = run_dir / FINGERPRINT
        self.checkpoints = run_dir / "checkpoints"
        self.logs = run_dir / "logs"
        self.metrics = run_dir / METRICS
        self.down_nodes = run_dir / "logs" / "down-nodes"
        self.tensorboard = run_dir / "tensorboard"
        self.model = run_dir / "model"
        self.report = run_dir / "report.html"
        self.kubernetes = run_dir / "kubernetes.json"
        self.slurm = run_dir / "slurm.json"

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is published."""
        return self.checkpoints / f"step-{step:08d}"

    def attempt_logs(self, attempt: int) -> Path:
        """Where the logs of one attempt lie."""
        return self.logs / f"attempt-{attempt:03d}"


def rank_log_name(rank: int) -> str:
    """The file name of one rank's log."""
    return f"rank-{rank:05d}.log"
