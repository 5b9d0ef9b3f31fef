"""Tokenising the data of a run by itself, before the machines with the GPUs are taken.

Where it fails, the run has an attempt that says so, and nothing else is started.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cluster.agent.attempt.lock_takeover import taken_over
from cluster.agent.attempt.record import Attempt, close_abandoned
from cluster.agent.attempt.restart import stopped_already, submission, wait_for_restart
from cluster.agent.attempt.runner import facts, gather
from cluster.agent.monitor.phase import Phase, run_phase
from cluster.agent.multinode.leader import WorkerGroup
from cluster.agent.process.cgroup import oom_kills
from cluster.agent.process.children import Children
from cluster.agent.process.launch import phase_command, phase_environment
from cluster.agent.process.node import Node, this_node
from cluster.agent.process.stop_request import StopRequests
from cluster.agent.verdict.outcome import PhaseEnd, judge
from rundir.attempts import Decision, next_attempt
from rundir.outcome import Outcome
from rundir.paths import RunPaths
from rundir.plan import LaunchSpec, read_launch
from rundir.progress import read_progress
from rundir.quantities import count

PREPARE = "prepare"
_DONE = 0


def prepare(run_dir: Path, num_proc: int) -> int:
    """Runs the phase, again as long as the restart policy says so; the exit code is 0 when the data are there.

    Args:
        run_dir: The planned run.
        num_proc: Processes that tokenise.
    """
    stop_requests = StopRequests(run_dir, _say)
    stop_requests.listen()
    node, given = this_node(), submission(os.environ)
    with taken_over(run_dir, node.generation, given) as lock:
        close_abandoned(run_dir, lock.previous)
        stop_requests.clear_stale(given)
        if (code := stopped_already(run_dir, given)) is not None:
            return code
        launch, workers = read_launch(run_dir), WorkerGroup(run_dir, node)
        while True:
            started, kills_before = time.time(), oom_kills()
            end = _run(run_dir, launch, num_proc, stop_requests)
            if end.exit_code == _DONE:
                return _DONE
            attempt = Attempt(run_dir, given or started, started=started)
            attempt.add(end)
            outcome, decision = _close(attempt, launch, node, stop_requests, kills_before)
            if not decision.restarts or not wait_for_restart(attempt, decision, stop_requests, workers):
                return outcome.agent_exit_code(decision.restarts) or 1


def _run(run_dir: Path, launch: LaunchSpec, num_proc: int, stop_requests: StopRequests) -> PhaseEnd:
    """The phase, with its log where the attempt to come has its own."""
    number = next_attempt(run_dir)
    log_dir = RunPaths(run_dir).attempt_logs(number)
    log_dir.mkdir(parents=True, exist_ok=True)
    command = [*phase_command(launch, PREPARE, run_dir, number), "--num-proc", str(num_proc)]
    environment = phase_environment(launch, number, log_dir, os.environ) | facts(0.0)
    _say(f"{PREPARE}: started with {count(num_proc, 'process', 'processes')}")
    with Children(_say) as children:
        end = run_phase(Phase(PREPARE, command, environment, log_dir / f"{PREPARE}.log", 0.0), children, stop_requests)
    _say(f"{PREPARE}: exit code {end.exit_code} after {end.seconds:.1f} s")
    return end


def _close(
    attempt: Attempt, launch: LaunchSpec, node: Node, stop_requests: StopRequests, kills_before: int | None
) -> tuple[Outcome, Decision]:
    found = gather(attempt, launch, node, kills_before)
    progress = read_progress(attempt.run_dir)
    verdict = judge(attempt.number, attempt.ends, launch.phases, progress, stop_requests.poll(), found)
    return verdict.outcome, attempt.close(verdict, launch.restart)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
