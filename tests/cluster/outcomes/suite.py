"""What may happen to a run, and what its record then says: the same words, the same decisions, wherever it lives."""

import signal
from pathlib import Path
from typing import Any

import pytest

from cluster import ClusterError
from rundir.stop import write_stop
from tests.cluster.outcomes.place import Place
from tests.cluster.outcomes.standin_run import FOR_EVER, StandinRun
from tests.support.documents import read_progress


def make_run(place: Place, folder: Path, trainer: dict[str, Any], **launch: Any) -> StandinRun:
    return StandinRun(place.backend, folder / "run-1a2b", trainer, place.launch() | launch)


def started(place: Place, folder: Path) -> StandinRun:
    """A run that would go on for ever, and has made some steps."""
    run = make_run(place, folder, {**FOR_EVER, "lockstep": True}, hang_seconds=8)
    run.submit()
    run.trains(0, seconds=place.patience_seconds)
    return run


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

    def test_a_run_trains_to_its_end(self, place: Place, tmp_path: Path) -> None:
        run = make_run(place, tmp_path, {"steps": 20, "save_every": 5})
        assert place.backend.status(run.dir).state == "none"
        run.submit()
        assert run.ended(place.patience_seconds) == "finished"
        assert [record["outcome"] for record in run.records()] == ["finished"]
        assert [line for line in place.backend.logs(run.dir) if "finished" in line]

    def test_a_killed_rank_is_a_crash_and_the_run_goes_on(self, place: Place, tmp_path: Path) -> None:
        run = started(place, tmp_path)
        with pytest.raises(ClusterError, match="already"):
            place.backend.submit(run.dir)
        place.signal_rank(run.dir, 1, signal.SIGKILL)
        crashed = goes_on(run, place, 0)
        assert (crashed["outcome"], crashed["decision"]["action"]) == ("crashed", "restart")
        assert "rank 1 killed by SIGKILL" in crashed["cause"]
        assert resumed_from(run) == crashed["last_checkpoint_step"] > 0
        place.backend.cancel(run.dir)

    def test_a_stopped_rank_is_a_hang_and_the_run_goes_on(self, place: Place, tmp_path: Path) -> None:
        run = started(place, tmp_path)
        place.signal_rank(run.dir, 1, signal.SIGSTOP)
        hung = goes_on(run, place, 0)
        assert (hung["outcome"], hung["decision"]["action"]) == ("hang", "restart")
        assert hung["cause"].endswith("; rank 1 is stopped (SIGSTOP); rank 0 waits in all_reduce")
        assert [item["kind"] for item in hung["evidence"]] == ["stuck_rank"]
        place.backend.cancel(run.dir)

    def test_machines_that_are_taken_away_cost_nothing(self, place: Place, tmp_path: Path) -> None:
        run = started(place, tmp_path)
        place.take_away(run.dir)
        check_taken(run, goes_on(run, place, 0), "preempted")
        place.backend.cancel(run.dir)

    @pytest.mark.parametrize("way", ["stop", "cancel", "by hand"])
    def test_what_its_user_ends_was_saved_and_stays_so(self, place: Place, tmp_path: Path, way: str) -> None:
        run = started(place, tmp_path)
        if way == "stop":
            write_stop(run.dir, "stopped", "tuneyard stop")
        elif way == "cancel":
            place.backend.cancel(run.dir)
        else:
            place.end_by_hand(run.dir)
        assert run.ended(place.patience_seconds) == "stopped"
        (record,) = run.records()
        assert record["last_checkpoint_step"] == record["last_step"]

    def test_a_stopped_run_that_is_submitted_again_finishes(self, place: Place, tmp_path: Path) -> None:
        run = started(place, tmp_path)
        write_stop(run.dir, "stopped", "tuneyard stop")
        assert run.ended(place.patience_seconds) == "stopped"
        run.trainer(steps=run.records()[-1]["last_step"] + 10)
        run.submit()
        assert run.ended(place.patience_seconds) == "finished"
        assert [record["outcome"] for record in run.records()] == ["stopped", "finished"]

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
