"""One attempt from its first word to its outcome: phases in order, then the verdict over them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from cluster.agent.attempt.part_ends import note_end, note_untried
from cluster.agent.attempt.record import Attempt
from cluster.agent.health.checks import gate_of, run_checks
from cluster.agent.monitor.monitor import LeaderOversight, TrainingContext
from cluster.agent.monitor.phase import Phase, killed_ranks, run_phase
from cluster.agent.multinode.leader import WorkerGroup, departed_evidence
from cluster.agent.process.cgroup import oom_kills
from cluster.agent.process.children import Children
from cluster.agent.process.launch import ONLY_WHAT_FOLLOWS, phase_command, phase_environment
from cluster.agent.process.node import Node
from cluster.agent.process.stop_request import StopRequests
from cluster.agent.verdict.log_evidence import Evidence, in_logs, in_order, killed_for_memory, without_aftermath
from cluster.agent.verdict.outcome import PhaseEnd, Verdict, describe_exit, judge, went_well
from cluster.errors import ClusterError
from rundir.attempts import Decision
from rundir.errors import TuneyardError
from rundir.outcome import Outcome
from rundir.paths import rank_log_name
from rundir.plan import LaunchSpec, RestartLimits, read_launch
from rundir.progress import read_progress
from rundir.quantities import count

PHASE_STARTED = "TUNEYARD_PHASE_STARTED"
"""Unix seconds at which the agent started the phase, for the trainer's account of the time."""
MTBF = "TUNEYARD_MTBF_SECONDS"
"""How long an attempt of this run can expect to live, for the interval between checkpoints."""


def carry(attempt: Attempt, stop_requests: StopRequests, workers: WorkerGroup) -> tuple[Outcome, Decision]:
    """Runs the attempt's phases; writes its outcome, whatever happens, and what the policy makes of it."""
    stop_requests.say = workers.say = attempt.say
    attempt.say(f"attempt {attempt.number} of {attempt.run_dir.name}: agent {os.getpid()}")
    limits = RestartLimits()
    try:
        launch = read_launch(attempt.run_dir)
        limits = launch.restart
        if os.environ.get(ONLY_WHAT_FOLLOWS):
            attempt.follow_training()
            launch = launch.after_training()
        verdict = run_phases(attempt, launch, stop_requests, workers)
    except TuneyardError as error:
        verdict = Verdict(Outcome.FATAL, str(error), remedy=error.remedy)
    except BaseException as error:
        attempt.close(Verdict(Outcome.CRASHED, f"the agent failed: {error!r}"), limits)
        raise
    return verdict.outcome, attempt.close(verdict, limits)


def run_phases(attempt: Attempt, launch: LaunchSpec, stop_requests: StopRequests, workers: WorkerGroup) -> Verdict:
    """Runs the planned phases in order, until one fails or somebody wants a stop."""
    if (closed := check_health(attempt, launch, stop_requests, workers)) is not None:
        return closed
    kills_before = oom_kills()
    with Children(attempt.say) as children:
        for name in launch.phases:
            if stop_requests.poll() is not None:
                break
            end = run_one(name, attempt, launch, children, stop_requests, workers)
            if not went_well(end, read_progress(attempt.run_dir), attempt.number):
                break
            if name == "train" and name != launch.phases[-1] and workers.gives_back:
                attempt.note_trained()
                workers.release()
    note_untried(attempt.run_dir, attempt.ends, launch.phases)
    progress, stop = read_progress(attempt.run_dir), stop_requests.poll()
    found = gather(attempt, launch, workers.node, kills_before)
    return judge(attempt.number, attempt.ends, launch.phases, progress, stop, found, was_trained=attempt.was_trained)


def run_one(
    name: str,
    attempt: Attempt,
    launch: LaunchSpec,
    children: Children,
    stop_requests: StopRequests,
    workers: WorkerGroup,
) -> PhaseEnd:
    """One phase, on every node when it is training; its end, which the attempt has noted."""
    endpoint = workers.command_train(attempt.number) if name == "train" else ""
    where = f" on {count(len(workers.node.names), 'node')}, meeting at {endpoint}" if endpoint else ""
    attempt.say(f"{name}: started{where}")
    end = run_phase(make_phase(launch, name, attempt, workers, endpoint), children, stop_requests)
    attempt.say(f"{name}: {describe_exit(end.exit_code)} after {end.seconds:.1f} s")
    if name == "train":
        end = workers.end_training(end, hurried=stop_requests.signalled_at is not None)
    attempt.add(end)
    note_end(attempt.run_dir, end, read_progress(attempt.run_dir), attempt.number)
    return end


def check_health(
    attempt: Attempt, launch: LaunchSpec, stop_requests: StopRequests, workers: WorkerGroup
) -> Verdict | None:
    """Asks the health gate of every node; the verdict when one, or the storage, is not fit to begin."""
    began = time.monotonic()
    if launch.nodes != len(workers.node.names):
        raise ClusterError(
            f"the plan needs {count(launch.nodes, 'node')}, and this is {len(workers.node.names)}", "submit it anew"
        )
    workers.command_check(launch, attempt.number)
    checks = {workers.node.name: run_checks(attempt.run_dir, launch)}
    reports = workers.collect(launch.join_seconds, stop_requests)
    checks |= {report.node: list(report.health) for report in reports}
    attempt.note_health(checks, time.monotonic() - began)
    ours = checks[workers.node.name]
    attempt.say("health: " + "; ".join(f"{check.name} {check.words}" for check in ours if check.ok))
    for node in checks:
        for check in checks[node]:
            if not check.ok:
                where = "" if workers.node.alone else f" on {node}"
                attempt.say(f"health: {check.name} FAILED{where}: {check.words}")
    if workers.departed:
        words = "; ".join(workers.departed.values())
        return Verdict(
            Outcome.NODE_FAILURE,
            words,
            tuple(departed_evidence(workers.departed, workers.evicted)),
            "look at the node's own log",
        )
    return gate_of(checks)


def make_phase(launch: LaunchSpec, name: str, attempt: Attempt, workers: WorkerGroup, endpoint: str = "") -> Phase:
    """One phase of this attempt. Only training watches for the stop file, so only it has a grace period."""
    log, training = attempt.log_dir / f"{name}.log", name == "train"
    context = training_context(launch, attempt.run_dir, attempt.number, attempt.log_dir, log, workers.node, attempt.say)
    return Phase(
        name,
        phase_command(launch, name, attempt.run_dir, attempt.number, 0, endpoint),
        {**phase_environment(launch, attempt.number, attempt.log_dir, os.environ), **facts(attempt.mtbf_seconds)},
        log,
        launch.grace_seconds if training else 0.0,
        LeaderOversight(context, launch, workers) if training else None,
        workers.beat,
    )


def facts(mtbf_seconds: float) -> dict[str, str]:
    """What a phase is told about time."""
    return {PHASE_STARTED: f"{time.time():.3f}", MTBF: f"{mtbf_seconds:.0f}"}


def training_context(
    launch: LaunchSpec, run_dir: Path, attempt: int, log_dir: Path, log: Path, node: Node, say: Callable[[str], None]
) -> TrainingContext:
    """Where one node's part of training takes place."""
    return TrainingContext(run_dir, attempt, log_dir, log, node.name, node.ranks(launch.ranks_per_node), say)


def gather(attempt: Attempt, launch: LaunchSpec, node: Node, kills_before: int | None) -> list[Evidence]:
    """What the logs of the last phase and the kernel's counters prove, in case it failed."""
    if not attempt.ends:
        return []
    last = attempt.ends[-1]
    ranks = node.ranks(launch.ranks_per_node) if last.phase == "train" else range(0)
    found = on_this_node(
        [*(attempt.log_dir / rank_log_name(rank) for rank in ranks), attempt.log_dir / f"{last.phase}.log"],
        *(node.name, launch, kills_before, last.ended_by_agent),
    )
    return without_aftermath(in_order([*found, *last.proofs]), killed=died_by_signal(last, attempt))


def on_this_node(
    logs: list[Path], node: str, launch: LaunchSpec, kills_before: int | None, ended_by_agent: bool
) -> list[Evidence]:
    """What these logs prove, and the kernel's count of processes that it killed for memory."""
    found = in_logs(logs, node, launch.remedies)
    kills = (oom_kills() or 0) - (kills_before or 0)
    if kills > 0 and not ended_by_agent:
        found.insert(0, killed_for_memory(node, kills))
    return found


def died_by_signal(end: PhaseEnd, attempt: Attempt) -> bool:
    """Whether a signal that was not ours ended the phase or one of its ranks, on whatever node."""
    return end.exit_code < 0 or any(killed_ranks(log) for log in attempt.log_dir.glob("train*.log"))
