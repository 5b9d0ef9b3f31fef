"""`python -m cluster.agent RUN_DIR`: carries one attempt of a planned run to its end.

Exit code: 0 finished; 75 preempted, at the walltime, or stopped; 2 fatal; 1 crashed, or another agent lives.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cluster.agent.attempt import Attempt, close_abandoned
from cluster.agent.children import Children
from cluster.agent.launch import Launch, phase_command, phase_environment
from cluster.agent.outcome import EXIT_CODES, Verdict, describe_exit, judge, went_well
from cluster.agent.phases import Phase, run_phase
from cluster.agent.stopping import StopWishes
from cluster.contract import ClusterError, Outcome
from cluster.lock import AgentLock, LockHeldError
from cluster.rundir import read_plan, read_progress


def main(arguments: list[str]) -> int:
    """The agent's whole life."""
    if len(arguments) != 1:
        print("usage: python -m cluster.agent RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0]).resolve()
    wishes = StopWishes(run_dir, lambda words: print(words, file=sys.stderr))
    wishes.listen()
    try:
        with AgentLock(run_dir) as lock:
            close_abandoned(run_dir, lock.previous)
            wishes.clear_stale()
            return carry(Attempt(run_dir), wishes)
    except ClusterError as error:
        print(f"agent: {error}", file=sys.stderr)
        return EXIT_CODES[Outcome.CRASHED if isinstance(error, LockHeldError) else Outcome.FATAL]


def carry(attempt: Attempt, wishes: StopWishes) -> int:
    """Runs the attempt's phases and writes its outcome, whatever happens; returns the agent's exit code."""
    wishes.say = attempt.say
    attempt.say(f"attempt {attempt.number} of {attempt.run_dir.name}: agent {os.getpid()}")
    try:
        verdict = run_phases(attempt, wishes)
    except ClusterError as error:
        verdict = Verdict(Outcome.FATAL, str(error))
    except BaseException as error:
        attempt.close(Verdict(Outcome.CRASHED, f"the agent failed: {error!r}"))
        raise
    # said before the record is closed: whoever follows the log reads until then
    attempt.say(": ".join([verdict.outcome.value, *verdict.cause.splitlines()[:1]]))
    attempt.close(verdict)
    return EXIT_CODES[verdict.outcome]


def run_phases(attempt: Attempt, wishes: StopWishes) -> Verdict:
    """Runs the planned phases in order, until one fails or somebody wants a stop."""
    launch = Launch.from_plan(read_plan(attempt.run_dir))
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
    progress = read_progress(attempt.run_dir)
    return judge(attempt.number, attempt.ends, launch.phases, progress, wishes.poll())


def make_phase(launch: Launch, name: str, attempt: Attempt) -> Phase:
    """One phase of this attempt. Only training watches for the stop file, so only it has a grace period."""
    return Phase(
        name,
        phase_command(launch, name, attempt.run_dir, attempt.number),
        phase_environment(launch, attempt.number, attempt.log_dir, os.environ),
        attempt.log_dir / f"{name}.log",
        launch.grace_seconds if name == "train" else 0.0,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
