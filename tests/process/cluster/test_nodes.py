"""Agents of two nodes, both on this machine, without a scheduler: one attempt, one record."""

import os
import signal
import subprocess
import sys
import time

import pytest
from agent_runs import NEVER, PATIENCE_SECONDS, Run, lives, until

from cluster.agent.process.node import free_port
from rundir.files import write_json
from tests.support.documents import read_attempts, read_progress

SUBMITTED = "1795000000.5"


class Nodes:
    """Starts agents as a scheduler would, one per node."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._port = str(free_port(25000 + os.getpid() % 2000))

    def start(self, rank: int, generation: str = "7.0", names: str = "n1,n2", **more: str) -> subprocess.Popen[bytes]:
        place = {"TUNEYARD_NODES": names, "TUNEYARD_NODE_RANK": str(rank), "TUNEYARD_HEAD": "localhost"}
        place |= {"TUNEYARD_PORT": self._port, "TUNEYARD_GENERATION": generation, **more}
        with open(self._run.dir / f"spoken-{rank}", "ab") as spoken:
            command = [sys.executable, "-m", "cluster.agent", str(self._run.dir)]
            agent = subprocess.Popen(command, env={**os.environ, **place}, stdout=spoken, stderr=spoken)
        self._run.agents.append(agent)
        return agent

    def spoken(self, rank: int) -> str:
        return (self._run.dir / f"spoken-{rank}").read_text()


@pytest.fixture
def nodes(run: Run) -> Nodes:
    return Nodes(run)


def plan(run: Run, **trainer) -> Run:
    return run.plan(["prepare", "train"], ranks=1, **trainer).launch(nodes=2, grace_seconds=10, silence_seconds=5)


def steps_made(run: Run, attempt: int, steps: int = 5) -> None:
    def made() -> bool:
        progress = read_progress(run.dir) or {}
        return progress.get("attempt") == attempt and progress.get("step", 0) >= steps

    until(made, f"{steps} steps of attempt {attempt}")


def test_two_nodes_train_restart_and_finish_as_one(run: Run, nodes: Nodes) -> None:
    plan(run, steps=30, raise_at={"0": 12}, save_every=5, lockstep=True).launch(restart={"backoff_seconds": 0.1})
    write_json(run.dir / "invitation.json", {"generation": "6.0", "serial": 9, "word": "train"})  # stale
    agents = [nodes.start(rank) for rank in (1, 0)]
    assert [agent.wait(PATIENCE_SECONDS) for agent in agents] == [0, 0]
    first, last = read_attempts(run.dir)
    assert (first["outcome"], first["cause"]) == ("crashed", "train: rank 0 exit code 1")
    assert (last["outcome"], last["first_step"], last["last_step"]) == ("finished", 10, 30)
    assert (last["nodes"], last["generation"]) == (["n1", "n2"], "7.0")
    assert run.log("rank-00001.log", attempt=1).strip() == "train speaks"
    assert "rank 1" not in run.log("agent.log", attempt=1)
    assert "train: started as node 1" in run.log("agent-node-01.log", attempt=1)


def test_a_rank_that_stands_still_on_the_other_node_is_named_with_that_node(run: Run, nodes: Nodes) -> None:
    plan(run, steps=10**6, lockstep=True).launch(hang_seconds=2, start_seconds=60, restart=NEVER)
    agents = [nodes.start(rank) for rank in (0, 1)]
    steps_made(run, 0)
    os.kill(run.rank_pids()[1], signal.SIGSTOP)
    assert [agent.wait(PATIENCE_SECONDS) for agent in agents] == [3, 0]
    record = run.record()
    assert record["outcome"] == "hang"
    assert record["cause"].endswith("; rank 1 is stopped (SIGSTOP); rank 0 waits in all_reduce")
    assert [(item["kind"], item["node"]) for item in record["evidence"]] == [("stuck_rank", "n2")]
    assert "is stopped" in run.log("stacks-rank-00001.txt")


def test_a_follower_that_is_gone_costs_the_attempt_and_moves_the_run(run: Run, nodes: Nodes) -> None:
    plan(run, steps=10**6, save_every=2)
    head, follower = (nodes.start(rank, TUNEYARD_SCHEDULER="slurm") for rank in (0, 1))
    steps_made(run, 0)
    rank = run.rank_pids()[1]
    follower.kill()
    assert head.wait(PATIENCE_SECONDS) == 75
    record = run.record()
    assert (record["outcome"], record["cause"]) == ("node_failure", "train: no sign of n2 for 5 s")
    assert [(item["kind"], item["node"]) for item in record["evidence"]] == [("lost_node", "n2")]
    assert not lives(rank)


def test_a_follower_that_never_comes_is_named_and_one_whose_head_is_gone_leaves(run: Run, nodes: Nodes) -> None:
    plan(run, steps=3).launch(join_seconds=1, restart=NEVER)
    assert nodes.start(0).wait(PATIENCE_SECONDS) == 3
    assert run.record()["cause"] == "n2 did not report within 1 s"
    began = time.monotonic()
    assert nodes.start(1, generation="8.0").wait(PATIENCE_SECONDS) == 1
    assert 4 < time.monotonic() - began < 20
    assert "no sign of the leader for 5 s: leaving" in nodes.spoken(1)


def test_a_newer_life_of_the_job_takes_over_from_one_that_is_not_dead(run: Run, nodes: Nodes) -> None:
    run.plan(["train"], ranks=1, steps=10**6, grace_seconds=10)
    said = {"TUNEYARD_SUBMITTED": SUBMITTED, "names": "n1"}
    old = nodes.start(0, **said)
    steps_made(run, 0)
    run.plan(["train"], ranks=1, steps=10**3 * 2, step_seconds=0.001)
    new = nodes.start(0, generation="7.1", **said)
    assert old.wait(PATIENCE_SECONDS) == 75
    assert new.wait(PATIENCE_SECONDS) == 0
    first, last = read_attempts(run.dir)
    assert (first["outcome"], first["cause"]) == ("preempted", "its job lives on as 7.1")
    assert (last["outcome"], last["generation"], last["first_step"]) == ("finished", "7.1", first["last_step"])
    stranger = nodes.start(0, generation="9.0", names="n1", TUNEYARD_SUBMITTED="1795009999.5")
    assert stranger.wait(PATIENCE_SECONDS) == 0, "another submit, and nobody holds the lock any more"
