"""What can be rehearsed: each fault is done to the real processes and files of a run, as root or not."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from launcher.drill.actions import flip_bit, limit_file_size
from launcher.drill.target import DrillTarget
from rundir.paths import STOP

SAVE_EVERY = 3
HIT_AFTER = 2
"""Steps past the first checkpoint at which a fault comes: so there is something to lose."""
STEPS_FOR_A_FULL_DISK = 6 * SAVE_EVERY


@dataclass(frozen=True, kw_only=True)
class InjectedFault:
    """A fault that was injected: when, at which step, and what it hit."""

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
        inject: Waits for the right step, and does it.
        afterwards: Done to the files while nothing is alive; gives the checkpoint that it damaged.
        restarts_itself: The agent starts the next attempt; otherwise the drill resumes, as a scheduler would.
        least_steps: Steps that the fault needs to show everything.
    """

    name: str
    outcome: str
    inject: Callable[[DrillTarget], InjectedFault]
    afterwards: Callable[[DrillTarget], str] | None = None
    restarts_itself: bool = False
    least_steps: int = 3 * SAVE_EVERY


def preempt(target: DrillTarget) -> InjectedFault:
    """SIGTERM to the agent, as Kubernetes and SLURM do when they take the machine away."""
    step = target.until_step(SAVE_EVERY + HIT_AFTER, SAVE_EVERY)
    with target.frozen():
        agent, now = target.agent(), time.time()
        os.kill(agent, signal.SIGTERM)
        # held until the agent has heard it: a small model would be finished by then
        target.until(lambda: (target.run_dir / STOP).exists() or None, "the agent to pass the signal on", 30)
    return InjectedFault(time=now, step=step, hit=f"SIGTERM to the agent (process {agent})")


def kill(target: DrillTarget) -> InjectedFault:
    """SIGKILL to one rank, as the kernel does when memory runs out."""
    step = target.until_step(SAVE_EVERY + HIT_AFTER, SAVE_EVERY)
    return _kill_a_rank(target, step)


def hang(target: DrillTarget) -> InjectedFault:
    """SIGSTOP to one rank: it is there and does nothing, and the others wait for it."""
    step = target.until_step(SAVE_EVERY + HIT_AFTER, SAVE_EVERY)
    pid = target.ranks()[-1]
    os.kill(pid, signal.SIGSTOP)
    return InjectedFault(time=time.time(), step=step, hit=f"SIGSTOP to the last rank (process {pid})")


def disk_full(target: DrillTarget) -> InjectedFault:
    """Files cannot grow around one save (EFBIG); that save must fail alone. Then a rank dies."""
    target.until_step(SAVE_EVERY, SAVE_EVERY)
    shards = (target.run_dir / "checkpoints").glob("step-*/*.safetensors")
    most = max(path.stat().st_size for path in shards) // 2
    with target.frozen() as ranks:
        limit_file_size(ranks, most)
    failed = target.until(lambda: target.progress().save_problem.step, "a save to fail")
    with target.frozen() as ranks:
        limit_file_size(ranks, resource.RLIM_INFINITY)
    step = target.until_step(failed + SAVE_EVERY, failed + 1)
    injected = _kill_a_rank(target, step)
    return InjectedFault(
        time=injected.time, step=step, hit=f"no space for the save of step {failed}; later {injected.hit}"
    )


def corrupt(target: DrillTarget) -> str:
    """One bit of the newest checkpoint turned; gives its name."""
    newest = target.run_dir / "checkpoints" / max(target.published())
    flip_bit(max(newest.glob("*.safetensors"), key=lambda path: path.stat().st_size))
    return newest.name


FAULTS = {
    fault.name: fault
    for fault in (
        Fault(name="preempt", outcome="preempted", inject=preempt),
        Fault(name="kill", outcome="crashed", inject=kill, restarts_itself=True),
        Fault(name="hang", outcome="hang", inject=hang, restarts_itself=True),
        Fault(
            name="disk-full",
            outcome="crashed",
            inject=disk_full,
            restarts_itself=True,
            least_steps=STEPS_FOR_A_FULL_DISK,
        ),
        Fault(name="corrupt", outcome="preempted", inject=preempt, afterwards=corrupt),
    )
}
"""Every fault by its name, in the order in which `all` goes through them."""


def _kill_a_rank(target: DrillTarget, step: int) -> InjectedFault:
    pid = target.ranks()[-1]
    os.kill(pid, signal.SIGKILL)
    return InjectedFault(time=time.time(), step=step, hit=f"SIGKILL to the last rank (process {pid})")
