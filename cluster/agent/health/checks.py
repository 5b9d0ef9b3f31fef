"""The health gate: is this machine fit to carry an attempt? Asked before its first phase.

`python -m cluster.agent.health RUN_DIR` prints the answers as a table; exit code 1 when the gate is closed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.agent.health import gpus
from cluster.agent.process.cgroup import memory_left
from cluster.agent.process.node import this_node
from cluster.agent.verdict.log_evidence import Evidence
from cluster.agent.verdict.outcome import Verdict
from rundir.attempts import HealthRecord
from rundir.errors import RunDirError
from rundir.outcome import Outcome
from rundir.plan import HealthSettings, LaunchSpec, read_launch
from rundir.quantities import gib

_OWN_CHECK_SECONDS = 60.0
_PROBE_BYTES = b"tuneyard" * 8192
_SANE_YEARS = (1_704_067_200.0, 4_102_444_800.0)  # 2024 to 2100: a machine without a clock starts in 1970
_MAX_SKEW_SECONDS = 300.0


REMEDIES = {
    "node": "the node is left out for 24 hours; have it checked, or leave the check out with launch.health.skip",
    "storage": "free space or raise the quota where the run directory lies",
    "job": "correct launch.health.checks",
}
"""What to do about a closed gate, by whom it blames."""


@dataclass(frozen=True)
class Check:
    """One answer. A check that only warns is ok, and its words say what is odd."""

    name: str
    ok: bool
    words: str
    blames: str = "node"  # node | storage | job

    def record(self, node: str = "") -> HealthRecord:
        """How it is kept in the attempt's record; `node` is named where there are several."""
        record = HealthRecord(name=self.name, ok=self.ok, words=self.words, blames=self.blames)
        return record.changed(node=node) if node else record


@dataclass(frozen=True)
class CheckTarget:
    """What the checks look at."""

    run_dir: Path
    launch: LaunchSpec

    @property
    def settings(self) -> HealthSettings:
        """`launch.health`."""
        return self.launch.health


def run_checks(run_dir: Path, launch: LaunchSpec) -> list[Check]:
    """Every check that is not left out, in order; the user's own come last."""
    target = CheckTarget(run_dir, launch)
    built_in = [check(target) for name, check in BUILT_IN.items() if name not in target.settings.skip]
    return [*built_in, *_own_checks(target)]


def gate(checks: Sequence[Check], node: str) -> Verdict | None:
    """The verdict over an attempt that must not begin here; None when every check is passed."""
    return gate_of({node: checks})


def gate_of(checks: Mapping[str, Sequence[Check]]) -> Verdict | None:
    """The same over the checks of every node, by its name."""
    failed = [(node, check) for node in checks for check in checks[node] if not check.ok]
    if not failed:
        return None
    proofs = tuple(Evidence("health", node, f"{check.name}: {check.words}", check.blames) for node, check in failed)
    lines = [f"{proof.node}: {proof.line}" if len(checks) > 1 else proof.line for proof in proofs]
    blamed = {check.blames for _, check in failed}
    outcome = Outcome.NODE_FAILURE if "node" in blamed else Outcome.CRASHED
    remedy = next(REMEDIES[blames] for blames in REMEDIES if blames in blamed)
    return Verdict(outcome, "health: " + "; ".join(lines), proofs, remedy)


def check_gpus(target: CheckTarget) -> Check:
    """As many GPUs as ranks, nobody else's work on them, and no fault known to the driver."""
    if target.launch.device == "cpu":
        return Check("gpus", True, "none needed")
    try:
        words, trouble = gpus.fitness(target.launch.ranks_per_node, os.environ)
    except gpus.UnreadableError as error:
        return Check("gpus", False, str(error))
    return Check("gpus", not trouble, trouble or words)


def check_memory(target: CheckTarget) -> Check:
    """Host memory that can be had without swapping."""
    free = _available_memory()
    if free is None:
        return Check("memory", True, "not told by this system")
    need = target.settings.free_memory_bytes
    return Check("memory", free >= need, _amounts(free, need))


def check_disk(target: CheckTarget) -> Check:
    """Free space where the run directory lies."""
    free, need = shutil.disk_usage(target.run_dir).free, target.settings.free_disk_bytes
    return Check("disk", free >= need, _amounts(free, need), "storage")


def check_storage(target: CheckTarget) -> Check:
    """Writes, flushes, reads back and deletes a file in the run directory; it also shows the storage's clock."""
    probe = target.run_dir / f".health-{this_node().name}-{os.getpid()}"
    began = time.monotonic()
    try:
        skew = _write_and_read(probe)
    except OSError as error:
        return Check("storage", False, f"{target.run_dir}: {error.strerror or error}", "storage")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    odd = f"; its clock differs by {skew:.0f} s from this machine's" if abs(skew) > _MAX_SKEW_SECONDS else ""
    return Check("storage", True, f"written and read in {time.monotonic() - began:.2f} s{odd}", "storage")


def check_clock(target: CheckTarget) -> Check:
    """A year that can be: certificates, logs and back-off depend on it."""
    now = time.time()
    return Check(
        "clock", _SANE_YEARS[0] < now < _SANE_YEARS[1], time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    )


def check_network(target: CheckTarget) -> Check:
    """The loopback, over which the ranks of one node meet. A host name that does not resolve is only odd."""
    try:
        _talk_to_ourselves()
    except OSError as error:
        return Check("network", False, f"loopback: {error.strerror or error}")
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        return Check("network", True, f"loopback works; {name} does not resolve: {error}")
    return Check("network", True, "loopback works")


BUILT_IN: dict[str, Callable[[CheckTarget], Check]] = {
    "gpus": check_gpus,
    "memory": check_memory,
    "disk": check_disk,
    "storage": check_storage,
    "clock": check_clock,
    "network": check_network,
}


def main(arguments: list[str]) -> int:
    """Prints the table for a run that was planned."""
    if len(arguments) != 1:
        print("usage: python -m cluster.agent.health RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0]).resolve()
    try:
        checks = run_checks(run_dir, read_launch(run_dir))
    except RunDirError as error:
        print(f"health: {error}", file=sys.stderr)
        return 2
    for check in checks:
        print(f"{'ok    ' if check.ok else 'FAILED'}  {check.name:<12} {check.words}")
    return 0 if all(check.ok for check in checks) else 1


def _own_checks(target: CheckTarget) -> Iterator[Check]:
    for command in target.settings.commands():
        yield _own_check(command, target)


def _own_check(command: list[str], target: CheckTarget) -> Check:
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=target.run_dir, capture_output=True, text=True, timeout=_OWN_CHECK_SECONDS, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return Check(name, False, f"no answer within {_OWN_CHECK_SECONDS:.0f} s")
    except OSError as error:
        return Check(name, False, f"{command[0]}: cannot be run: {error.strerror}", "job")
    last = next((line.strip() for line in reversed((done.stdout + done.stderr).splitlines()) if line.strip()), "")
    return Check(name, done.returncode == 0, last or f"exit code {done.returncode}")


def _available_memory() -> float | None:
    """Free host memory, or what is left under the limit of our cgroup when that is less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    facts = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    free = float(facts.get("MemAvailable", 0)) * 1024
    left = memory_left()
    return free if left is None else min(free, left)


def _write_and_read(probe: Path) -> float:
    """Seconds by which the storage's clock is ahead of ours."""
    before = time.time()
    with open(probe, "wb") as file:
        file.write(_PROBE_BYTES)
        file.flush()
        os.fsync(file.fileno())
    if probe.read_bytes() != _PROBE_BYTES:
        raise OSError("what was read back is not what was written")
    return probe.stat().st_mtime - before


def _talk_to_ourselves() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=2) as client,
        server.accept()[0] as peer,
    ):
        client.sendall(b"x")
        peer.settimeout(2)
        if peer.recv(1) != b"x":
            raise OSError("what arrives is not what was sent")


def _amounts(free: float, need: float) -> str:
    return f"{gib(free, 2)} free" + (f", {gib(need, 2)} needed" if need else "")
