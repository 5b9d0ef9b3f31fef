"""The rank processes of this node: finding them, what they are doing, and their stacks before they are killed."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.process_identity import stat_fields
from rundir.paths import rank_log_name

_PID_FILE = re.compile(r"rank-(\d+)\.pid")
_DUMP_SECONDS = 1.5
_QUIET_SECONDS = 0.2
_POLL_SECONDS = 0.05
_CONDITIONS = {"T": "is stopped (SIGSTOP)", "t": "is held by a debugger", "Z": "has exited"}
_MAIN_THREAD = re.compile(r"Current thread|MainThread")
_FRAME = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+) in (?P<name>\S+)'  # faulthandler
    r"|^\s+(?P<spy_name>\S+) \((?P<spy_file>[^:]+):(?P<spy_line>\d+)\)",  # py-spy
    re.MULTILINE,
)
_WAITING = re.compile(
    r"(all_?reduce|(_?all_?)?gather|reduce_scatter|broadcast|(monitored_)?barrier|all_to_all|scatter|recv|synchronize)"
)
_INNERMOST_FRAMES = 8


@dataclass(frozen=True)
class Rank:
    """One rank's process on this node."""

    number: int
    pid: int
    log_dir: Path

    @property
    def log(self) -> Path:
        return self.log_dir / rank_log_name(self.number)

    @property
    def stacks(self) -> Path:
        return self.log_dir / f"stacks-{self.log.stem}.txt"


def ranks_in(log_dir: Path, alive: Collection[int], numbers: Container[int] | None = None) -> list[Rank]:
    """The ranks of an attempt that are among the living processes below the agent.

    `numbers` are the ranks of this node: another node's process may have the same id as one of ours.
    """
    found = []
    for path in sorted(log_dir.glob("rank-*.pid")):
        named = _PID_FILE.fullmatch(path.name)
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text(encoding="ascii"))
            if named and pid in alive and (numbers is None or int(named[1]) in numbers):
                found.append(Rank(int(named[1]), pid, log_dir))
    return found


def condition(pid: int) -> str:
    """Why the kernel does not run a process, "" when nothing speaks against it."""
    fields = stat_fields(pid)
    if not fields:
        return "has exited"
    if fields[0] != "D":
        return _CONDITIONS.get(fields[0], "")
    try:
        where = Path(f"/proc/{pid}/wchan").read_text(encoding="ascii").strip("\0\n ")
    except OSError:
        where = ""
    return f"waits in the kernel for a device or storage ({where or 'disk sleep'})"


def dump_stacks(ranks: Sequence[Rank]) -> dict[int, str]:
    """Writes each rank's stacks beside its log, and returns them by rank. Ranks may die of it: kill them next."""
    found = _spied(ranks)
    for number in (signal.SIGQUIT, signal.SIGABRT):  # the trainer's own handler; else PYTHONFAULTHANDLER's
        asked = [rank for rank in ranks if rank.number not in found and _answers(rank.pid, number)]
        found |= _dumped(asked, number)
    for rank in ranks:
        head = f"rank {rank.number}, process {rank.pid}: {condition(rank.pid) or 'running'}\n\n"
        with contextlib.suppress(OSError):  # a full disk must not keep the hang from being ended
            rank.stacks.write_text(head + found.get(rank.number, "no stack could be taken\n"), encoding="utf-8")
    return found


def where_in(stacks: str) -> str:
    """What the main thread does, in words: the collective that it waits in, or its innermost function."""
    frames = list(_main_frames(stacks))[:_INNERMOST_FRAMES]
    for name, _ in frames:
        if _WAITING.match(name):
            return f"waits in {name}"
    return f"is in {frames[0][0]} ({frames[0][1]})" if frames else ""


def _main_frames(stacks: str) -> Iterator[tuple[str, str]]:
    """(function, file:line) of the main thread, innermost first."""
    lines = iter(stacks.splitlines())
    for line in lines:
        if _MAIN_THREAD.search(line):
            break
    for line in lines:
        found = _FRAME.search(line)
        if not found:
            return
        file, number = found["file"] or found["spy_file"], found["line"] or found["spy_line"]
        name = found["name"] or found["spy_name"]
        yield name.rpartition(".")[2], f"{Path(file).name}:{number}"  # py-spy writes methods with their class


def _spied(ranks: Sequence[Rank]) -> dict[int, str]:
    """Stacks by py-spy, where it is installed and allowed; it sees into processes that no longer take signals."""
    if not ranks or shutil.which("py-spy") is None:
        return {}
    spies = {rank.number: _spy(rank.pid) for rank in ranks if condition(rank.pid) != "has exited"}
    found = {}
    for number, spy in spies.items():
        try:
            words = spy.communicate(timeout=_DUMP_SECONDS)[0]
        except subprocess.TimeoutExpired:
            spy.kill()
            words = spy.communicate()[0]
        if _FRAME.search(words):
            found[number] = words
    return found


def _spy(pid: int) -> subprocess.Popen[str]:
    command = ["py-spy", "dump", "--nonblocking", "--pid", str(pid)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _dumped(ranks: Sequence[Rank], number: signal.Signals) -> dict[int, str]:
    """What ranks write into their logs upon a signal that makes them dump their stacks."""
    before = {rank.number: _size(rank.log) for rank in ranks}
    for rank in ranks:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # SIGABRT kills, and a core dump of a training process would fill the disk
            resource.prlimit(rank.pid, resource.RLIMIT_CORE, (0, 0))
            os.kill(rank.pid, number)
    _until_quiet([rank.log for rank in ranks])
    texts = {rank.number: _text_from(rank.log, before[rank.number]) for rank in ranks}
    return {rank: text for rank, text in texts.items() if _FRAME.search(text)}


def _until_quiet(logs: Sequence[Path]) -> None:
    """Waits until every log has stopped growing."""
    deadline = time.monotonic() + (_DUMP_SECONDS if logs else 0)
    sizes, since = [_size(log) for log in logs], time.monotonic()
    grown = False
    while time.monotonic() < deadline and not (grown and time.monotonic() - since > _QUIET_SECONDS):
        time.sleep(_POLL_SECONDS)
        if (now := [_size(log) for log in logs]) != sizes:
            sizes, since, grown = now, time.monotonic(), True


def _answers(pid: int, number: signal.Signals) -> bool:
    """Whether a running process has a handler for a signal; one that is stopped cannot answer."""
    if condition(pid):
        return False
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text_from(path: Path, start: int) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as log:
        log.seek(start)
        return log.read().decode(errors="replace")
    return ""
