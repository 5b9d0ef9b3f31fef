"""What pods show each other: who lives, who has a post, and when a full disk is in the way."""

import json
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.agent.multinode.messages import read_departed
from cluster.errors import ClusterError
from cluster.kubernetes.pod.leader import REPLACED_SECONDS, Leader, departed_workers
from cluster.kubernetes.pod.membership.heartbeat import (
    LEFT,
    SERVING,
    TIMEOUT_SECONDS,
    WAITING,
    WAITING_BEAT_SECONDS,
    Heartbeat,
    OwnHeartbeat,
    Peer,
    as_json,
    heartbeat_path,
    read_heartbeat,
)
from cluster.kubernetes.pod.membership.identity import PodIdentity, pod_identity
from cluster.kubernetes.pod.membership.rendezvous import (
    Rendezvous,
    agent_environment,
    node_names,
    node_of,
    read_rendezvous,
    write_rendezvous,
)
from cluster.kubernetes.pod.node_exclusion import MOST_MOVES, NodeExclusion
from cluster.kubernetes.pod.process.log import REPEAT_SECONDS, PodLog, numbers
from cluster.kubernetes.pod.worker import LEAVE_SECONDS, Worker, leads_no_more
from rundir.stop import write_stop

IDENTITY = PodIdentity(1, 2, "b", "support-1", "node-1", "support-0.support", "23456", 1795000000.5)
RENDEZVOUS = Rendezvous("a.1", ("a", "b"), ("node-0", "node-1"))
ENVIRONMENT = {
    "TUNEYARD_POD_INDEX": "1",
    "TUNEYARD_NODES_COUNT": "2",
    "TUNEYARD_POD_UID": "b",
    "TUNEYARD_NODE_NAME": "node-1",
}


def show(run_dir: Path, index: int, **changes: object) -> None:
    path = heartbeat_path(run_dir, index)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(as_json(Heartbeat(**{"pod": "a", "node": "node-0", **changes}))))  # type: ignore[arg-type]


def test_a_pod_is_told_by_its_environment() -> None:
    identity = pod_identity(ENVIRONMENT | {"TUNEYARD_SUBMITTED": "0"})
    assert (identity.index, identity.uid, identity.submitted, identity.is_leader) == (1, "b", None, False)
    addresses = {"10.0.0.7": "10.0.0.7", "fd00::7": "", "": ""}
    assert {given: pod_identity(ENVIRONMENT | {"TUNEYARD_POD_IP": given}).address for given in addresses} == addresses
    for name in ENVIRONMENT:
        with pytest.raises(ClusterError, match=f"{name} not set"):
            pod_identity({key: value for key, value in ENVIRONMENT.items() if key != name})
    with pytest.raises(ClusterError, match="not a number"):
        pod_identity(ENVIRONMENT | {"TUNEYARD_POD_INDEX": "one"})


def test_what_was_left_by_a_dead_pod_never_lives() -> None:
    peer, left = Peer(), Heartbeat("a", "node-0", beat=7)
    for now in range(0, 300, 2):
        peer.look(left, float(now))
        assert not peer.lives
    peer.look(replace(left, beat=8), 300.0)
    assert peer.waits
    peer.look(replace(left, beat=9, state=SERVING), 302.0)
    assert (peer.lives, peer.waits) == (True, False)


def test_a_pod_lives_until_its_file_has_stood_still_for_long() -> None:
    peer, shown = Peer(), Heartbeat("a", "node-0")
    peer.look(shown, 0.0)
    shown = replace(shown, beat=1)
    for now in range(2, 2 + int(TIMEOUT_SECONDS)):
        peer.look(shown, float(now))
        assert peer.lives, "storage shows changes late"
    peer.look(shown, 3.0 + TIMEOUT_SECONDS)
    assert not peer.lives
    peer.look(replace(shown, beat=2), 100.0)
    assert peer.lives


def test_time_in_which_one_did_not_look_proves_nothing() -> None:
    peer = Peer()
    peer.look(Heartbeat("a", "node-0"), 0.0)
    peer.look(Heartbeat("a", "node-0", beat=1), 1.0)
    peer.look(Heartbeat("a", "node-0", beat=1), 10_000.0)
    assert peer.lives


def test_a_late_write_of_a_replaced_pod_is_not_taken_for_the_new_one() -> None:
    peer = Peer()
    peer.look(Heartbeat("new", "node-2", epoch=1), 0.0)
    peer.look(Heartbeat("old", "node-0", epoch=0, beat=99), 1.0)
    assert peer.heartbeat is not None
    assert peer.heartbeat.pod == "new"
    peer.look(None, 2.0)
    assert peer.heartbeat.pod == "new", "half a file says nothing"


def test_the_later_of_two_pods_has_the_index(tmp_path: Path) -> None:
    said: list[str] = []
    old = OwnHeartbeat(tmp_path, IDENTITY, said.append)
    old.show(0.0, state=WAITING)
    assert old.replaced() is None
    new = OwnHeartbeat(tmp_path, replace(IDENTITY, uid="a-lower-uid"), said.append)
    new.show(0.0, state=WAITING)
    assert (new.now.epoch, new.replaced()) == (1, None)
    assert old.replaced() == new.now
    old.show(100.0, state=LEFT)
    assert read_heartbeat(tmp_path, 1) == new.now, "who has lost the post writes there no more"


def test_a_beat_comes_when_it_is_due(tmp_path: Path) -> None:
    own = OwnHeartbeat(tmp_path, IDENTITY, print)
    own.beat(0.0)
    own.beat(WAITING_BEAT_SECONDS - 0.1)
    assert own.now.beat == 1
    own.beat(WAITING_BEAT_SECONDS)
    assert read_heartbeat(tmp_path, 1) == own.now
    assert own.now.beat == 2
    own.show(WAITING_BEAT_SECONDS + 0.1, state=SERVING, generation="a.1")
    assert (own.now.beat, read_heartbeat(tmp_path, 1)) == (3, own.now), "what is new is shown at once"


def test_a_full_disk_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    own = OwnHeartbeat(tmp_path, IDENTITY, said.append)
    own.beat(0.0)
    before = read_heartbeat(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        own.beat(2.0)
        own.beat(4.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(said) == 1
    assert "the other pods may not see this one" in said[0]
    own.beat(6.0)
    after = read_heartbeat(tmp_path, 1)
    assert before is not None
    assert after is not None
    assert after.beat > before.beat


def test_where_no_file_can_be_written_beside_the_old_one_is_written_over(tmp_path: Path) -> None:
    own = OwnHeartbeat(tmp_path, IDENTITY, pytest.fail)
    own.show(0.0, generation="a-long-generation.1")
    (tmp_path / "pods" / f".1.json.{os.getpid()}.new").mkdir()
    own.show(1.0, generation=None)
    assert read_heartbeat(tmp_path, 1) == own.now


def test_agents_are_told_their_places() -> None:
    told = agent_environment(IDENTITY, RENDEZVOUS, 1795000000.5)
    assert told == {
        "TUNEYARD_NODES": "node-0,node-1",
        "TUNEYARD_NODE_RANK": "1",
        "TUNEYARD_HEAD": "support-0.support",
        "TUNEYARD_PORT": "23456",
        "TUNEYARD_GENERATION": "a.1",
        "TUNEYARD_SUBMITTED": "1795000000.5",
        "TUNEYARD_RELEASED": "",
        "TUNEYARD_TRAINED": "",
    }
    left_alone = agent_environment(replace(IDENTITY, index=0), Rendezvous("a.2", ("a",), ("node-0",)), 1.0)
    assert (left_alone["TUNEYARD_TRAINED"], left_alone["TUNEYARD_NODES"]) == ("1", "node-0")
    there = agent_environment(IDENTITY, replace(RENDEZVOUS, address="10.0.0.7"), 1.0)
    assert there["TUNEYARD_HEAD"] == "10.0.0.7", "a name may lead to the pod's predecessor for a while"
    assert node_names(["x", "y", "x"]) == ("x#0", "y", "x#2")
    assert [node_of(name) for name in ("x#0", "y")] == ["x", "y"]


def test_a_worker_serves_each_life_that_names_it_once(tmp_path: Path) -> None:
    worker = Worker(tmp_path, IDENTITY, PodLog("pod 1"))
    (tmp_path / "pods").mkdir()
    assert worker.next_rendezvous(0.0) is None
    write_rendezvous(tmp_path, Rendezvous("z.1", ("z", "another"), ("n", "m")))
    assert worker.next_rendezvous(1.0) is None, "of a former pod"
    write_rendezvous(tmp_path, RENDEZVOUS)
    assert worker.next_rendezvous(2.0) == RENDEZVOUS == read_rendezvous(tmp_path)
    assert worker.next_rendezvous(3.0) is None


def test_a_worker_lets_go_of_a_life_whose_leader_is_gone(tmp_path: Path) -> None:
    worker = Worker(tmp_path, IDENTITY, PodLog("pod 1"))
    assert worker.watch(RENDEZVOUS, 0.0) == ""
    show(tmp_path, 0, state=WAITING, awaits_workers=True, generation=None)
    assert worker.watch(RENDEZVOUS, 1.0) == "", "from before this life"
    show(tmp_path, 0, state=SERVING, generation="a.1", beat=1)
    assert worker.watch(RENDEZVOUS, 2.0) == ""
    show(tmp_path, 0, state=WAITING, awaits_workers=True, generation="a.1", beat=2)
    assert worker.watch(RENDEZVOUS, 3.0) == "", "its agent may be about to hear it"
    assert worker.watch(RENDEZVOUS, 3.0 + LEAVE_SECONDS) == "the leader's agent has ended"
    show(tmp_path, 0, pod="c", epoch=1, name="support-0", state=WAITING)
    assert worker.watch(RENDEZVOUS, 50.0) == "", "the agent of the old head may live: its lock is still held"
    show(tmp_path, 0, pod="c", epoch=1, name="support-0", state=WAITING, awaits_workers=True)
    assert worker.watch(RENDEZVOUS, 51.0) == "the leader's pod was replaced by support-0"
    assert not leads_no_more(RENDEZVOUS, Heartbeat("a", "n", WAITING, "a.0", awaits_workers=True)), (
        "a late peer of the time before"
    )
    assert not leads_no_more(RENDEZVOUS, Heartbeat("c", "n", state=SERVING, generation="c.1"))


@pytest.mark.parametrize(
    ("shown", "seconds", "found"),
    [
        (Heartbeat("b", "node-1", SERVING, "a.1"), 0, None),
        (Heartbeat("b", "node-1", WAITING, None), 0, None),  # it has not read the gathering yet
        (Heartbeat("b", "node-1", WAITING, "a.0"), 0, None),
        (Heartbeat("b", "node-1", WAITING, "a.1"), 0, ("its agent has ended", False)),
        (Heartbeat("b", "node-1", LEFT, "a.1"), 0, ("its pod has left", True)),
        (Heartbeat("b", "node-1", LEFT, None), 0, ("its pod has left", True)),
        (Heartbeat("c", "node-2", WAITING, None, name="p"), 1, None),  # the old one may be saving
        (Heartbeat("c", "node-2", WAITING, None, name="p"), REPLACED_SECONDS, ("its pod was replaced by p", True)),
    ],
)
def test_the_workers_that_have_gone_from_a_life(shown: Heartbeat, seconds: float, found) -> None:
    missed = departed_workers(RENDEZVOUS, {1: shown}, lambda index: seconds)
    assert [(one.message, one.was_evicted) for one in missed] == ([found] if found else [])


def test_a_leader_waits_for_pods_and_then_for_the_back_off(tmp_path: Path) -> None:
    launch = {"nodes": 2, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1, "phases": []}
    (tmp_path / "plan.json").write_text(json.dumps({"launch": launch}))
    crashed = {"attempt": 0, "outcome": "crashed", "cause": "x", "ended": 1.0, "submitted": IDENTITY.submitted}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(crashed) + "\n")
    leader = Leader(tmp_path, replace(IDENTITY, index=0, uid="a", node="node-0"), PodLog("pod 0"))
    leader.finalize(0.0, 0.0)
    assert leader.finalized
    assert json.loads((tmp_path / "attempts.jsonl").read_text())["decision"]["wait_seconds"] == 10.0
    for now in (1.0, 2.0):
        show(tmp_path, 1, pod="b", node="node-1", beat=int(now))
        assert leader.next_rendezvous(now) is None, "the back-off"
    assert leader.next_rendezvous(9.9) is None
    assert leader.next_rendezvous(10.0) == RENDEZVOUS
    assert leader.next_rendezvous(10.5) == replace(RENDEZVOUS, generation="a.2"), "no generation is used twice"
    show(tmp_path, 1, pod="b", node="node-1", beat=3, state=LEFT)
    assert leader.next_rendezvous(11.0) is None


@pytest.mark.parametrize(("submitted", "seconds"), [(IDENTITY.submitted, 40.0), (None, 40.0), (1795009999.5, 0.0)])
def test_who_submits_again_does_not_wait_for_the_last_time(tmp_path: Path, submitted, seconds: float) -> None:
    launch = {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1, "phases": []}
    (tmp_path / "plan.json").write_text(json.dumps({"launch": launch}))
    decision = {"action": "restart", "reason": "", "wait_seconds": 40.0, "exclude": []}
    crashed = {"attempt": 0, "outcome": "crashed", "submitted": IDENTITY.submitted, "decision": decision}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(crashed) + "\n")
    leader = Leader(tmp_path, replace(IDENTITY, index=0, count=1, submitted=submitted), PodLog("pod 0"))
    leader.finalize(0.0, 0.0)
    assert (leader.next_rendezvous(0.0) is None, leader.next_rendezvous(seconds) is None) == (seconds > 0, False)


def test_a_replaced_pod_is_missed_unless_all_are_saving(tmp_path: Path) -> None:
    leader = Leader(tmp_path, replace(IDENTITY, index=0, uid="a"), PodLog("pod 0"))
    show(tmp_path, 1, pod="c", name="p", epoch=1)
    leader.watch(RENDEZVOUS, 0.0)
    write_stop(tmp_path, "preempted", "SIGTERM")
    leader.watch(RENDEZVOUS, REPLACED_SECONDS)
    assert read_departed(tmp_path, "a.1") == []
    (tmp_path / "stop").unlink()
    leader.watch(RENDEZVOUS, 2 * REPLACED_SECONDS)
    assert [one.message for one in read_departed(tmp_path, "a.1")] == ["its pod was replaced by p"]


def test_a_pod_leaves_an_excluded_node_so_many_times(tmp_path: Path) -> None:
    proof = {"kind": "gpu_hardware", "node": "node-1#1", "line": "GPU is lost", "blames": "node"}
    record = {"attempt": 0, "outcome": "node_failure", "ended": 4e9, "evidence": [proof]}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "pods").mkdir()
    said: list[str] = []
    assert not NodeExclusion(tmp_path, replace(IDENTITY, node="node-2"), said.append).must_move()
    for _ in range(MOST_MOVES):
        assert NodeExclusion(tmp_path, IDENTITY, said.append).must_move()
    stays = NodeExclusion(tmp_path, IDENTITY, said.append)
    assert not stays.must_move()
    assert not stays.must_move()
    assert [words.startswith("warning: ") for words in said] == [False] * MOST_MOVES + [True]
    assert NodeExclusion(tmp_path, replace(IDENTITY, submitted=1795009999.5), said.append).must_move(), (
        "a new submission"
    )


def test_a_move_that_cannot_be_counted_is_not_made(tmp_path: Path) -> None:
    proof = {"node": "node-1", "line": "GPU is lost", "blames": "node"}
    record = {"attempt": 0, "outcome": "node_failure", "ended": 4e9, "evidence": [proof]}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(record) + "\n")
    said: list[str] = []  # there is no folder pods/
    assert not NodeExclusion(tmp_path, IDENTITY, said.append).must_move()
    assert "warning: " in said[-1]


def test_what_is_waited_for_is_said_once_and_then_every_minute(capsys: pytest.CaptureFixture[str]) -> None:
    words = PodLog("pod 0")
    for now in range(0, int(REPEAT_SECONDS) + 2):
        words.waiting("pods", f"pods {numbers([1, 3])} of 4", float(now))
    words.waiting("back-off", "10 s before the next attempt", REPEAT_SECONDS + 2)
    said = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == [*["waiting for pods 1, 3 of 4"] * 2, "waiting for 10 s before the next attempt"]
    assert numbers(range(20)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more"
