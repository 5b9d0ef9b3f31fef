"""What may happen to a run, and what its record then says: the same words, the same decisions, wherever it lives."""

import signal
from pathlib import Path
from typing import Any

import pytest

from cluster import ClusterError
from cluster.rundir import read_progress, write_stop
from tests.cluster.outcomes.place import Place
from tests.cluster.outcomes.standin_run import FOR_EVER, StandinRun


def make_run(place: Place, folder: Path, trainer: dict[str, Any], **launch: Any) -> StandinRun:
    return StandinRun(place.backend, folder / "run-1a2b", trainer, place.launch() | launch)


def goes_on(run: StandinRun, place: Place, attempt: int) -> dict[str, Any]:
    """The next attempt after `attempt` has begun where that one had saved; gives the record that was closed."""
    before = run.closed(attempt, place.patience_seconds)
    if before["outcome"] in ("preempted", "walltime") and not place.comes_back:
        assert run.ended(place.patience_seconds) == before["outcome"]
        run.submit()
    run.trains(attempt + 1, seconds=place.patience_seconds)
    return before


def resumed_from(run: StandinRun) -> int:
    """Where the attempt that trains now began."""
    return (read_progress(run.dir) or {})["resumed_from"]["step"]


def check_taken(run: StandinRun, record: dict[str, Any], outcome: str) -> None:
    assert (record["outcome"], record["decision"]["action"]) == (outcome, "restart")
    assert record["last_checkpoint_step"] == record["last_step"] == resumed_from(run)


class Outcomes:
    """The suite. A subclass has the fixture `place`."""

    def test_one_run_meets_everything_and_finishes(self, place: Place, tmp_path: Path) -> None:
        trainer = {"steps": 10**6, "save_every": 5, "lockstep": True}
        run = make_run(place, tmp_path, trainer, hang_seconds=8)
        assert place.backend.status(run.dir).state == "none"
        run.submit()
        run.trains(0, seconds=place.patience_seconds)
        with pytest.raises(ClusterError, match="already"):
            place.backend.submit(run.dir)
        self.crash_and_hang(run, place)
        self.machines(run, place)
        self.user(run, place)
        run.trainer(steps=run.records()[-1]["last_step"] + 10)
        run.submit()
        assert run.ended(place.patience_seconds) == "finished"
        words = ["crashed", "hang", "preempted", "stopped", "stopped", "stopped", "finished"]
        assert [record["outcome"] for record in run.records()] == words
        assert [line for line in place.backend.logs(run.dir) if "finished" in line]

    def crash_and_hang(self, run: StandinRun, place: Place) -> None:
        """Ranks that die or stand still: another attempt by the agents' own decision, from the last checkpoint."""
        place.signal_rank(run.dir, 1, signal.SIGKILL)
        crashed = goes_on(run, place, 0)
        assert (crashed["outcome"], crashed["decision"]["action"]) == ("crashed", "restart")
        assert "rank 1 killed by SIGKILL" in crashed["cause"]
        assert resumed_from(run) == crashed["last_checkpoint_step"] > 0
        place.signal_rank(run.dir, 1, signal.SIGSTOP)
        hung = goes_on(run, place, 1)
        assert (hung["outcome"], hung["decision"]["action"]) == ("hang", "restart")
        assert hung["cause"].endswith("; rank 1 is stopped (SIGSTOP); rank 0 waits in all_reduce")
        assert [item["kind"] for item in hung["evidence"]] == ["stuck_rank"]

    def machines(self, run: StandinRun, place: Place) -> None:
        """What a scheduler does: nothing is lost, and it counts against no budget."""
        place.take_away(run.dir)
        check_taken(run, goes_on(run, place, 2), "preempted")

    def user(self, run: StandinRun, place: Place) -> None:
        """What a user does: it ends, stays so, and was saved; only a new submit goes on."""
        ways = (
            lambda: write_stop(run.dir, "stopped", "tuneyard stop"),
            lambda: place.backend.cancel(run.dir),
            lambda: place.end_by_hand(run.dir),
        )
        for attempt, way in enumerate(ways, start=3):
            way()
            assert run.ended(place.patience_seconds) == "stopped"
            assert len(run.records()) == attempt + 1
            assert run.records()[attempt]["last_checkpoint_step"] == run.records()[attempt]["last_step"]
            if attempt < 5:
                run.submit()
                run.trains(attempt + 1, seconds=place.patience_seconds)

    def test_a_run_whose_time_is_over_goes_on(self, place: Place, tmp_path: Path) -> None:
        run = StandinRun(place.backend, tmp_path / "run-1a2b", FOR_EVER, place.launch(short=True))
        run.submit()
        run.trains(0, seconds=place.patience_seconds)
        place.time_is_over(run.dir)
        check_taken(run, goes_on(run, place, 0), "walltime")
        place.backend.cancel(run.dir)

    def test_a_crash_loop_ends_with_its_budget(self, place: Place, tmp_path: Path) -> None:
        trainer = {"steps": 100, "save_every": 2, "raise_at": {str(life): 5 + 3 * life for life in range(9)}}
        run = make_run(place, tmp_path, trainer, restart={"max_crashes": 2, "backoff_seconds": 0.1})
        run.submit()
        assert run.ended(place.patience_seconds) == "crashed"
        assert [record["outcome"] for record in run.records()] == ["crashed"] * 3
        decision = run.records()[-1]["decision"]
        assert decision["action"] == "stop"
        assert decision["reason"].startswith("3 crashes or hangs within 24 hours (max_crashes is 2): train: rank 0")

    @pytest.mark.parametrize("wrong", [{"prepare_exit": 2}, {"fatal_at": 1}], ids=["data", "memory"])
    def test_what_can_never_work_is_tried_once(self, place: Place, tmp_path: Path, wrong: dict[str, Any]) -> None:
        run = make_run(place, tmp_path, {"steps": 100, **wrong})
        run.submit()
        assert run.ended(place.patience_seconds) == "fatal"
        assert [record["outcome"] for record in run.records()] == ["fatal"]
        assert run.records()[0]["decision"]["action"] == "stop"
