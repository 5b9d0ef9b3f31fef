"""The suite of outcomes on the real controller: a run of two nodes with a rank each."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from slurm_runs import slurm_launch

from cluster.slurm.backend import SlurmBackend
from slurm.testbed import Testbed
from tests.cluster.outcomes.place import Place
from tests.cluster.outcomes.suite import Outcomes
from tests.support.documents import read_attempts


class OnSlurm:
    """The test cluster: a higher partition takes machines away, `scancel` is how a user ends a job by hand."""

    comes_back = True
    patience_seconds = 120.0

    def __init__(self, bed: Testbed) -> None:
        self.bed, self.backend = bed, SlurmBackend()

    def launch(self, *, short: bool = False) -> dict[str, Any]:
        # of two minutes any moment may be the last: what comes much too early in an hour is about preemption
        return slurm_launch(nodes=2, ranks_per_node=1, walltime_seconds=120 if short else 3600)

    def take_away(self, run_dir: Path) -> None:
        options = ("--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        self.bed.run("sbatch", *options)

    def time_is_over(self, run_dir: Path) -> None:
        self.bed.run("scancel", "--batch", "--signal=USR1", self._job(run_dir))

    def end_by_hand(self, run_dir: Path) -> None:
        self.bed.run("scancel", self._job(run_dir))

    def signal_rank(self, run_dir: Path, rank: int, number: signal.Signals) -> None:
        os.kill(int((run_dir / f"rank{rank}.pid").read_text()), number)

    def _job(self, run_dir: Path) -> str:
        return str(read_attempts(run_dir)[-1]["generation"]).partition(".")[0]


class TestOutcomesOnSlurm(Outcomes):
    @pytest.fixture
    def place(self, slurm_testbed: Testbed) -> Place:
        return OnSlurm(slurm_testbed)
