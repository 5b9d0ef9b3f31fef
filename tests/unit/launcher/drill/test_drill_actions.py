"""What drills, the chaos campaign and tests do to processes and files does what it says, and can be taken back."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.drill.actions import flip_bit, held_still, limit_file_size, rank_pid, signal_rank, truncate

WRITES = """
import sys
for line in sys.stdin:
    with open(sys.argv[1], "ab") as file:
        file.write(b"x" * 1000)
    print("ok", flush=True)
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Writes 1,000 bytes more into `file` for every line that it reads, and says so."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(tmp_path / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def write_once(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_is_held_still_and_goes_on(writer: subprocess.Popen[str]) -> None:
    assert write_once(writer) == "ok"
    with held_still([writer.pid]):
        deadline = time.monotonic() + 10
        while state(writer.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(writer.pid) == "T"
    assert write_once(writer) == "ok"


def test_files_cannot_grow_until_the_limit_is_lifted(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    assert write_once(writer) == "ok"
    limit_file_size([writer.pid], 1500)
    assert resource.prlimit(writer.pid, resource.RLIMIT_FSIZE)[0] == 1500
    limit_file_size([writer.pid], resource.RLIM_INFINITY)
    assert write_once(writer) == "ok"
    limit_file_size([writer.pid], 1500)
    assert write_once(writer) == "", "the write was refused"
    assert (tmp_path / "file").stat().st_size == 2000


def test_a_rank_is_found_by_what_it_wrote_down(writer: subprocess.Popen[str], tmp_path: Path) -> None:
    file = tmp_path / "logs" / "attempt-002" / "rank-00001.pid"
    file.parent.mkdir(parents=True)
    file.write_text(str(writer.pid))
    assert rank_pid(tmp_path, attempt=2, rank=1) == writer.pid
    assert signal_rank(tmp_path, 2, 1, signal.SIGKILL) == writer.pid
    assert writer.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize(("place", "bit", "changed"), [(0.0, 0, (0, 1)), (0.5, 3, (5, 8)), (0.99, 7, (9, 128))])
def test_one_bit_is_turned(tmp_path: Path, place: float, bit: int, changed: tuple[int, int]) -> None:
    file, expected = tmp_path / "file", bytearray(10)
    file.write_bytes(bytes(10))
    expected[changed[0]] = changed[1]
    flip_bit(file, place, bit)
    assert file.read_bytes() == bytes(expected)
    flip_bit(file, place, bit)
    assert file.read_bytes() == bytes(10)


def test_a_file_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(100))
    truncate(tmp_path / "file", 0.25)
    assert (tmp_path / "file").stat().st_size == 25
