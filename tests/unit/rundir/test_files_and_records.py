"""The shared files of a run directory: replaced whole, read with tolerance."""

import json
import os
from pathlib import Path

import pytest

from rundir.attempts import next_attempt
from rundir.errors import RunDirError
from rundir.files import read_json, read_json_of_other_node, write_json
from rundir.plan import read_plan
from rundir.progress import read_progress
from rundir.stop import clear_stop, read_stop, write_stop
from tests.support.documents import put_attempt, read_attempts


def test_json_round_trip_leaves_nothing_beside(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Zoë"})
    write_json(tmp_path / "a.json", {"step": 2})
    assert read_json(tmp_path / "a.json") == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_is_waited_for_is_there_empty(tmp_path: Path) -> None:
    """A network file system would go on saying for a minute that there is none."""
    assert read_json_of_other_node(tmp_path / "word.json") == {}
    assert (tmp_path / "word.json").read_bytes() == b""
    write_json(tmp_path / "word.json", {"word": "train"})
    assert read_json_of_other_node(tmp_path / "word.json") == {"word": "train"}
    assert read_json_of_other_node(tmp_path / "none" / "word.json") == {}


def test_absent_is_none_and_damaged_names_the_file(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") is None
    for damage in ('{"step": 1', "[]", ""):
        (tmp_path / "torn.json").write_text(damage)
        with pytest.raises(RunDirError, match=r"torn\.json: does not hold a JSON object"):
            read_json(tmp_path / "torn.json")


def test_progress_is_empty_when_absent_or_torn(tmp_path: Path) -> None:
    assert not read_progress(tmp_path)
    (tmp_path / "progress.json").write_text('{"state": "trai')
    assert not read_progress(tmp_path)


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
        write_json(tmp_path / "progress.json", progress)
        os.utime(tmp_path / "progress.json", (0, 0))
    write_json(tmp_path / "failure.json", failure)
    found = read_progress(tmp_path)
    assert (found.state, found.attempt, found.heartbeat) == seen
    assert (found.failure.to_json() == failure) == (seen[0] == "failed")


def test_a_missing_plan_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"plan\.json: no such file") as caught:
        read_plan(tmp_path)
    assert caught.value.remedy


def test_attempts_are_appended_and_replaced_by_number(tmp_path: Path) -> None:
    assert (read_attempts(tmp_path), next_attempt(tmp_path)) == ([], 0)
    put_attempt(tmp_path, {"attempt": 0, "outcome": None})
    put_attempt(tmp_path, {"attempt": 1, "outcome": None})
    put_attempt(tmp_path, {"attempt": 0, "outcome": "crashed"})
    assert [record["outcome"] for record in read_attempts(tmp_path)] == ["crashed", None]
    assert next_attempt(tmp_path) == 2


def test_a_damaged_line_is_kept_and_its_number_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "attempts.jsonl").write_text('{"attempt": 0, "outcome": "cra\n{"outcome": "no number"}\n\n')
    assert read_attempts(tmp_path) == []
    assert next_attempt(tmp_path) == 2
    put_attempt(tmp_path, {"attempt": 2})
    assert (tmp_path / "attempts.jsonl").read_text().splitlines()[0] == '{"attempt": 0, "outcome": "cra'


def test_numbers_go_on_after_lines_were_lost(tmp_path: Path) -> None:
    put_attempt(tmp_path, {"attempt": 7})
    assert next_attempt(tmp_path) == 8


def test_stop_is_written_read_and_cleared(tmp_path: Path) -> None:
    assert read_stop(tmp_path) is None
    write_stop(tmp_path, "walltime", "SIGUSR1")
    stop = read_stop(tmp_path)
    assert stop is not None
    assert (stop.reason, stop.by) == ("walltime", "SIGUSR1")
    assert json.loads((tmp_path / "stop").read_text()) == stop.to_json()
    clear_stop(tmp_path)
    clear_stop(tmp_path)
    assert read_stop(tmp_path) is None


@pytest.mark.parametrize("text", ["", "please", "{}"])
def test_a_stop_file_by_hand_is_the_users_wish(tmp_path: Path, text: str) -> None:
    (tmp_path / "stop").write_text(text)
    assert (stop := read_stop(tmp_path)) is not None
    assert (stop.reason, stop.is_users, stop.who, stop.time) == ("stopped", True, "stop file", None)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="cannot be written"):
        write_stop(tmp_path / "gone", "stopped", "me")
