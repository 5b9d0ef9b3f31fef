"""The suite of outcomes on the machine that submits: nobody takes it away but the agent's own signals."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.local.backend import LocalBackend
from cluster.process_identity import ProcessIdentity, signal_process
from cluster.run import lock
from tests.cluster.outcomes.place import Place
from tests.cluster.outcomes.standin_run import STANDIN
from tests.cluster.outcomes.suite import Outcomes

ROOT = Path(__file__).parents[3]


class Here:
    """This machine. A shutdown's SIGTERM takes it away, USR1 says that a time is over, Ctrl-C is the user's."""

    backend = LocalBackend()
    comes_back = False
    patience_seconds = 90.0

    def launch(self, *, short: bool = False) -> dict[str, Any]:
        return {"backend": "local"}

    def take_away(self, run_dir: Path) -> None:
        self._signal_agent(run_dir, signal.SIGTERM)

    def time_is_over(self, run_dir: Path) -> None:
        self._signal_agent(run_dir, signal.SIGUSR1)

    def end_by_hand(self, run_dir: Path) -> None:
        self._signal_agent(run_dir, signal.SIGINT)

    def signal_rank(self, run_dir: Path, rank: int, number: signal.Signals) -> None:
        os.kill(int((run_dir / f"rank{rank}.pid").read_text()), number)

    def _signal_agent(self, run_dir: Path, number: signal.Signals) -> None:
        assert signal_process(lock.holder(run_dir) or ProcessIdentity(), number)


class TestOutcomesHere(Outcomes):
    @pytest.fixture
    def place(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STANDIN), str(ROOT)]))
        here = Here()
        yield here
        for run_dir in tmp_path.glob("run-*"):  # of a failed test
            signal_process(lock.holder(run_dir) or ProcessIdentity(), signal.SIGKILL)
