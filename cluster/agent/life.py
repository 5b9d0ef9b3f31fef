"""One attempt from its first word to its outcome: phases in order, then the verdict over them."""

from __future__ import annotations

import os
import time
from socket import gethostname

from cluster.agent.attempt import Attempt
from cluster.agent.cgroup import oom_kills
from cluster.agent.children import Children
from cluster.agent.evidence import Evidence, in_logs, killed_for_memory, without_aftermath
from cluster.agent.health import gate, run_checks
from cluster.agent.launch import Launch, phase_command, phase_environment
from cluster.agent.outcome import PhaseEnd, Verdict, describe_exit, judge, went_well
from cluster.agent.oversight import Oversight
from cluster.agent.phases import Phase, killed_ranks, run_phase
from cluster.agent.stopping import StopWishes
from cluster.contract import ClusterError, Outcome
from cluster.policy import Decision, Limits
from cluster.rundir import read_plan, read_progress

PHASE_STARTED = "TUNEYARD_PHASE_STARTED"
"""Unix seconds at which the agent started the phase, for the trainer's account of the time."""
MTBF = "TUNEYARD_MTBF_SECONDS"
"""How long an attempt of this run can expect to live, for the interval between checkpoints."""


def carry(attempt: Attempt, wishes: StopWishes) -> tuple[Outcome, Decision]:
    """Runs the attempt's phases; writes its outcome, whatever happens, and what the policy makes of it."""
    wishes.say = attempt.say
    attempt.say(f"attempt {attempt.number} of {attempt.run_dir.name}: agent {os.getpid()}")
    limits = Limits()
    try:
        launch = Launch.from_plan(read_plan(attempt.run_dir))
        limits = launch.restart
        verdict = run_phases(attempt, launch, wishes)
    except ClusterError as error:
        verdict = Verdict(Outcome.FATAL, str(error), remedy=error.remedy)
    except BaseException as error:
        attempt.close(Verdict(Outcome.CRASHED, f"the agent failed: {error!r}"), limits)
        raise
    return verdict.outcome, attempt.close(verdict, limits)


def run_phases(attempt: Attempt, launch: Launch, wishes: StopWishes) -> Verdict:
    """Runs the planned phases in order, until one fails or somebody wants a stop."""
    if (closed := check_health(attempt, launch)) is not None:
        return closed
    kills_before = oom_kills()
    with Children(attempt.say) as children:
        for name in launch.phases:
            if wishes.poll() is not None:
                break
            attempt.say(f"{name}: started")
            end = run_phase(make_phase(launch, name, attempt), children, wishes)
            attempt.say(f"{name}: {describe_exit(end.exit_code)} after {end.seconds:.1f} s")
            attempt.add(end)
            if not went_well(end, read_progress(attempt.run_dir), attempt.number):
                break
    progress, stop = read_progress(attempt.run_dir), wishes.poll()
    return judge(attempt.number, attempt.ends, launch.phases, progress, stop, gather(attempt, launch, kills_before))


def check_health(attempt: Attempt, launch: Launch) -> Verdict | None:
    """Asks the health gate; the verdict when this machine or its storage is not fit to begin."""
    began = time.monotonic()
    checks = run_checks(attempt.run_dir, launch)
    attempt.note_health(checks, time.monotonic() - began)
    attempt.say("health: " + "; ".join(f"{check.name} {check.words}" for check in checks if check.ok))
    for check in checks:
        if not check.ok:
            attempt.say(f"health: {check.name} FAILED: {check.words}")
    return gate(checks, gethostname())


def make_phase(launch: Launch, name: str, attempt: Attempt) -> Phase:
    """One phase of this attempt. Only training watches for the stop file, so only it has a grace period."""
    facts = {PHASE_STARTED: f"{time.time():.3f}", MTBF: f"{attempt.mtbf_seconds:.0f}"}
    return Phase(
        name,
        phase_command(launch, name, attempt.run_dir, attempt.number),
        {**phase_environment(launch, attempt.number, attempt.log_dir, os.environ), **facts},
        attempt.log_dir / f"{name}.log",
        launch.grace_seconds if name == "train" else 0.0,
        Oversight(launch, attempt.run_dir, attempt.number, attempt.log_dir, attempt.say) if name == "train" else None,
    )


def gather(attempt: Attempt, launch: Launch, kills_before: int | None) -> list[Evidence]:
    """What the logs of the last phase and the kernel's counters prove, in case it failed."""
    if not attempt.ends:
        return []
    last, node = attempt.ends[-1], gethostname()
    logs = sorted(attempt.log_dir.glob("rank-*.log")) if last.phase == "train" else []
    found = in_logs([*logs, attempt.log_dir / f"{last.phase}.log"], node, launch.remedies)
    kills = (oom_kills() or 0) - (kills_before or 0)
    if kills > 0 and not last.ended_by_agent:
        found.insert(0, killed_for_memory(node, kills))
    return without_aftermath([*found, *last.proofs], killed=died_by_signal(last, attempt))


def died_by_signal(end: PhaseEnd, attempt: Attempt) -> bool:
    """Whether a signal that was not ours ended the phase or one of its ranks."""
    return end.exit_code < 0 or bool(killed_ranks(attempt.log_dir / "train.log"))
