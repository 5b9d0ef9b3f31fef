"""What can be rehearsed: each fault is done to the real processes and files of a run, as root or not."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.rundir import STOP
from launcher.drill.scene import Scene

SAVE_EVERY = 3
HIT_AFTER = 2
"""Steps past the first checkpoint at which a fault comes: so there is something to lose."""
STEPS_FOR_A_FULL_DISK = 6 * SAVE_EVERY


@dataclass(frozen=True, kw_only=True)
class Blow:
    """A fault that was dealt: when, at which step, and what it hit."""

    time: float
    step: int
    hit: str
    damaged: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: What it is called on the command line.
        outcome: What the attempt that is hit must be called afterwards.
        strike: Waits for the right step, and does it.
        afterwards: Done to the files while nothing is alive; gives the checkpoint that it damaged.
        restarts_itself: The agent starts the next attempt; otherwise the drill resumes, as a scheduler would.
        least_steps: Steps that the fault needs to show everything.
    """

    name: str
    outcome: str
    strike: Callable[[Scene], Blow]
    afterwards: Callable[[Scene], str] | None = None
    restarts_itself: bool = False
    least_steps: int = 3 * SAVE_EVERY


def preempt(scene: Scene) -> Blow:
    """SIGTERM to the agent, as Kubernetes and SLURM do when they take the machine away."""
    step = scene.until_step(SAVE_EVERY + HIT_AFTER, SAVE_EVERY)
    with scene.frozen():
        agent, now = scene.agent(), time.time()
        os.kill(agent, signal.SIGTERM)
        # held until the agent has heard it: a small model would be finished by then
        scene.until(lambda: (scene.run_dir / STOP).exists() or None, "the agent to pass the signal on", 30)
    return Blow(time=now, step=step, hit=f"SIGTERM to the agent (process {agent})")


def kill(scene: Scene) -> Blow:
    """SIGKILL to one rank, as the kernel does when memory runs out."""
    step = scene.until_step(SAVE_EVERY + HIT_AFTER, SAVE_EVERY)
    return _kill_a_rank(scene, step)


def hang(scene: Scene) -> Blow:
    """SIGSTOP to one rank: it is there and does nothing, and the others wait for it."""
    step = scene.until_step(SAVE_EVERY + HIT_AFTER, SAVE_EVERY)
    pid = scene.ranks()[-1]
    os.kill(pid, signal.SIGSTOP)
    return Blow(time=time.time(), step=step, hit=f"SIGSTOP to the last rank (process {pid})")


def disk_full(scene: Scene) -> Blow:
    """Files cannot grow around one save (EFBIG); that save must fail alone. Then a rank dies."""
    scene.until_step(SAVE_EVERY, SAVE_EVERY)
    most = _largest_file(scene.run_dir / "checkpoints") // 2
    with scene.frozen() as ranks:
        _limit_files(ranks, most)
    failed = scene.until(lambda: (scene.progress().get("save_problem") or {}).get("step"), "a save to fail")
    with scene.frozen() as ranks:
        _limit_files(ranks, resource.RLIM_INFINITY)
    step = scene.until_step(failed + SAVE_EVERY, failed + 1)
    blow = _kill_a_rank(scene, step)
    return Blow(time=blow.time, step=step, hit=f"no space for the save of step {failed}; later {blow.hit}")


def corrupt(scene: Scene) -> str:
    """One bit of the newest checkpoint turned; gives its name."""
    newest = scene.run_dir / "checkpoints" / max(scene.published())
    file = max(newest.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 1]))
    return newest.name


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(name="preempt", outcome="preempted", strike=preempt),
        Fault(name="kill", outcome="crashed", strike=kill, restarts_itself=True),
        Fault(name="hang", outcome="hang", strike=hang, restarts_itself=True),
        Fault(
            name="disk-full",
            outcome="crashed",
            strike=disk_full,
            restarts_itself=True,
            least_steps=STEPS_FOR_A_FULL_DISK,
        ),
        Fault(name="corrupt", outcome="preempted", strike=preempt, afterwards=corrupt),
    )
}
"""Every fault by its name, in the order in which `all` goes through them."""


def _kill_a_rank(scene: Scene, step: int) -> Blow:
    pid = scene.ranks()[-1]
    os.kill(pid, signal.SIGKILL)
    return Blow(time=time.time(), step=step, hit=f"SIGKILL to the last rank (process {pid})")


def _largest_file(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.glob("step-*/*.safetensors"))


def _limit_files(pids: list[int], most: int) -> None:
    """The soft limit only: it can be lifted again without privileges."""
    for pid in pids:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, hard))
