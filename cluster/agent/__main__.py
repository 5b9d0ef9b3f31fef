"""`python -m cluster.agent RUN_DIR`: carries a planned run, attempt after attempt, as long as the policy says so.

Exit code: 0 finished; 75 stopped, or to be started again by a scheduler; 2 fatal; 3 the policy gave up;
1 another agent lives, or this one could not do its work.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cluster.agent.attempt.lock_takeover import taken_over
from cluster.agent.attempt.record import Attempt, close_abandoned
from cluster.agent.attempt.report_command import run_afterwards
from cluster.agent.attempt.restart import node_must_change, stopped_already, submission, wait_for_restart
from cluster.agent.attempt.runner import carry
from cluster.agent.attempt.worker import work
from cluster.agent.multinode.leader import WorkerGroup
from cluster.agent.process.node import Node, this_node
from cluster.agent.process.stop_request import StopRequests
from rundir.errors import TuneyardError
from rundir.outcome import AGENT_FAILED, RESTART_ME


def main(arguments: list[str]) -> int:
    """The agent's whole life."""
    if len(arguments) != 1:
        print("usage: python -m cluster.agent RUN_DIR", file=sys.stderr)
        return 2
    run_dir = Path(arguments[0]).resolve()
    stop_requests = StopRequests(run_dir, lambda words: print(words, file=sys.stderr))
    stop_requests.listen()
    try:
        node = this_node()
        if node.rank:
            stop_requests.ignore_stale(submission(os.environ))
            return work(run_dir, node, stop_requests)
        submitted = submission(os.environ)
        with taken_over(run_dir, node.generation, submitted) as lock:
            close_abandoned(run_dir, lock.previous)
            stop_requests.clear_stale(submitted)
            return lead(run_dir, node, stop_requests)
    except TuneyardError as error:
        print(f"agent: {error}", file=sys.stderr)
        return AGENT_FAILED


def lead(run_dir: Path, node: Node, stop_requests: StopRequests) -> int:
    """The leader's side; its workers exit when it ends."""
    workers = WorkerGroup(run_dir, node, stop_requests.say)
    try:
        return live(run_dir, stop_requests, workers)
    finally:
        workers.shut_down()


def live(run_dir: Path, stop_requests: StopRequests, workers: WorkerGroup) -> int:
    """Carries attempts until the run has ended, has to move, or is asked to stop; returns the exit code."""
    given = submission(os.environ)
    if (code := stopped_already(run_dir, given)) is not None:
        return code
    submitted = given or time.time()
    while True:
        attempt = Attempt(run_dir, submitted)
        outcome, decision = carry(attempt, stop_requests, workers)
        if decision.stops:
            run_afterwards(run_dir, attempt.say)
        if not decision.restarts or node_must_change(decision, os.environ, workers):
            return outcome.agent_exit_code(decision.restarts)
        if not wait_for_restart(attempt, decision, stop_requests, workers):
            return RESTART_ME


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
