"""Reading logs that grow, are not there yet, or hold a progress bar."""

from pathlib import Path

import pytest

from cluster import ClusterError
from cluster.run.logs import Tail, read_logs
from rundir.paths import RunPaths
from tests.support.documents import put_attempt


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with two attempts that have ended, and logs of both."""
    for attempt in (0, 1):
        put_attempt(tmp_path, {"attempt": attempt, "outcome": "crashed"})
        folder = RunPaths(tmp_path).attempt_logs(attempt)
        folder.mkdir(parents=True)
        (folder / "agent.log").write_text(f"agent {attempt}\n")
        (folder / "rank-00000.log").write_text(f"rank 0 of {attempt}\nlast words")
        (folder / "rank-00001.log").write_text(f"rank 1 of {attempt}\n")
    return tmp_path


def read(run_dir: Path, rank: int | None = None, attempt: int | None = None) -> list[str]:
    return list(read_logs(run_dir, rank, attempt, follow=False, alive=lambda: False))


def test_the_story_of_the_newest_attempt(run_dir: Path) -> None:
    assert read(run_dir) == ["[agent] agent 1", "[rank-00000] rank 0 of 1", "[rank-00000] last words"]


def test_one_rank_of_one_attempt(run_dir: Path) -> None:
    assert read(run_dir, rank=1, attempt=0) == ["rank 1 of 0"]
    assert read(run_dir, rank=9) == []


def test_an_attempt_that_never_was_is_refused(run_dir: Path, tmp_path_factory) -> None:
    with pytest.raises(ClusterError, match="no attempt 5") as caught:
        read(run_dir, attempt=5)
    assert "0 to 1" in caught.value.remedy
    assert read(tmp_path_factory.mktemp("new")) == []


def test_following_sees_what_is_written_later_and_ends_with_the_attempt(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("cluster.run.logs._POLL_SECONDS", 0)
    folder = RunPaths(tmp_path).attempt_logs(0)
    rounds = iter(range(100))

    def alive() -> bool:  # the world moves on whenever it is looked at
        turn = next(rounds)
        if turn == 1:
            folder.mkdir(parents=True)
            put_attempt(tmp_path, {"attempt": 0, "outcome": None})
        if turn == 3:
            (folder / "rank-00000.log").write_text("one\ntw")
        if turn == 5:
            with open(folder / "rank-00000.log", "a") as log:
                log.write("o\nthree\n")
            put_attempt(tmp_path, {"attempt": 0, "outcome": "finished"})
        return turn < 6

    assert list(read_logs(tmp_path, 0, None, follow=True, alive=alive)) == ["one", "two", "three"]


def test_a_progress_bar_shows_as_a_terminal_would(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"0%\r50%\r100%\nwindows\r\nbad \xff byte\n")
    assert list(Tail(path).new_lines()) == ["100%", "windows", "bad � byte"]
