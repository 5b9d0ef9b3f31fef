"""The shared files of a run directory: replaced whole, read with tolerance."""

import json
import os
from pathlib import Path

import pytest

from cluster import ClusterError, rundir


def test_json_round_trip_leaves_nothing_beside(tmp_path: Path) -> None:
    rundir.write_json_atomic(tmp_path / "a.json", {"name": "Zoë"})
    rundir.write_json_atomic(tmp_path / "a.json", {"step": 2})
    assert rundir.read_json(tmp_path / "a.json") == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_is_waited_for_is_there_empty(tmp_path: Path) -> None:
    """A network file system would go on saying for a minute that there is none."""
    assert rundir.read_json_of_others(tmp_path / "word.json") == {}
    assert (tmp_path / "word.json").read_bytes() == b""
    rundir.write_json_atomic(tmp_path / "word.json", {"word": "train"})
    assert rundir.read_json_of_others(tmp_path / "word.json") == {"word": "train"}
    assert rundir.read_json_of_others(tmp_path / "none" / "word.json") == {}


def test_absent_is_none_and_damaged_names_the_file(tmp_path: Path) -> None:
    assert rundir.read_json(tmp_path / "none.json") is None
    for damage in ('{"step": 1', "[]", ""):
        (tmp_path / "torn.json").write_text(damage)
        with pytest.raises(ClusterError, match=r"torn\.json: does not hold a JSON object"):
            rundir.read_json(tmp_path / "torn.json")


def test_progress_is_none_when_absent_or_torn(tmp_path: Path) -> None:
    assert rundir.read_progress(tmp_path) is None
    (tmp_path / "progress.json").write_text('{"state": "trai')
    assert rundir.read_progress(tmp_path) is None


@pytest.mark.parametrize(
    ("progress", "failure", "seen"),
    [
        (None, {"attempt": 0, "time": 5.0}, ("failed", 0, 5.0)),  # another rank failed before the first one spoke
        ({"state": "stopped", "attempt": 0, "heartbeat": 9.0}, {"attempt": 0, "time": 5.0}, ("failed", 0, 9.0)),
        ({"state": "stopped", "attempt": 0, "heartbeat": 1.0}, {"attempt": 1, "time": 5.0}, ("failed", 1, 5.0)),
        ({"state": "loading", "attempt": 2, "heartbeat": 9.0}, {"attempt": 1, "time": 5.0}, ("loading", 2, 9.0)),
        ({"state": "finished", "attempt": 1, "heartbeat": 9.0}, {"attempt": 1, "time": 9.5}, ("finished", 1, 9.0)),
        ({"state": "training", "attempt": 1, "heartbeat": 9.0}, {"attempt": "1"}, ("training", 1, 9.0)),
    ],
)
def test_a_failure_is_that_of_its_attempt(
    tmp_path: Path, progress: dict | None, failure: dict, seen: tuple[str, int, float]
) -> None:
    if progress is not None:
        rundir.write_json_atomic(tmp_path / "progress.json", progress)
        os.utime(tmp_path / "progress.json", (0, 0))
    rundir.write_json_atomic(tmp_path / "failure.json", failure)
    found = rundir.read_progress(tmp_path) or {}
    assert (found["state"], found["attempt"], found["heartbeat"]) == seen
    assert (found.get("failure") == failure) == (seen[0] == "failed")


def test_a_missing_plan_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"plan\.json: no such file") as caught:
        rundir.read_plan(tmp_path)
    assert caught.value.remedy


def test_attempts_are_appended_and_replaced_by_number(tmp_path: Path) -> None:
    assert (rundir.read_attempts(tmp_path), rundir.next_attempt(tmp_path)) == ([], 0)
    rundir.put_attempt(tmp_path, {"attempt": 0, "outcome": None})
    rundir.put_attempt(tmp_path, {"attempt": 1, "outcome": None})
    rundir.put_attempt(tmp_path, {"attempt": 0, "outcome": "crashed"})
    assert [record["outcome"] for record in rundir.read_attempts(tmp_path)] == ["crashed", None]
    assert rundir.next_attempt(tmp_path) == 2


def test_a_damaged_line_is_kept_and_its_number_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "attempts.jsonl").write_text('{"attempt": 0, "outcome": "cra\n{"outcome": "no number"}\n\n')
    assert rundir.read_attempts(tmp_path) == []
    assert rundir.next_attempt(tmp_path) == 2
    rundir.put_attempt(tmp_path, {"attempt": 2})
    assert (tmp_path / "attempts.jsonl").read_text().splitlines()[0] == '{"attempt": 0, "outcome": "cra'


def test_numbers_go_on_after_lines_were_lost(tmp_path: Path) -> None:
    rundir.put_attempt(tmp_path, {"attempt": 7})
    assert rundir.next_attempt(tmp_path) == 8


def test_stop_is_written_read_and_cleared(tmp_path: Path) -> None:
    assert rundir.read_stop(tmp_path) is None
    rundir.write_stop(tmp_path, "walltime", "SIGUSR1")
    stop = rundir.read_stop(tmp_path)
    assert stop is not None
    assert (stop["reason"], stop["by"]) == ("walltime", "SIGUSR1")
    assert json.loads((tmp_path / "stop").read_text()) == stop
    rundir.clear_stop(tmp_path)
    rundir.clear_stop(tmp_path)
    assert rundir.read_stop(tmp_path) is None


@pytest.mark.parametrize("text", ["", "please", "{}"])
def test_a_stop_file_by_hand_is_the_users_wish(tmp_path: Path, text: str) -> None:
    (tmp_path / "stop").write_text(text)
    assert rundir.read_stop(tmp_path) == {"reason": "stopped"}


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot be written"):
        rundir.write_stop(tmp_path / "gone", "stopped", "me")
