"""What pods show each other: who lives, who has a post, and when a full disk is in the way."""

import json
import os
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cluster.agent.invitation import read_absences
from cluster.errors import ClusterError
from cluster.kubernetes.pod.leader import REPLACED_SECONDS, Head, absences
from cluster.kubernetes.pod.membership.heartbeat import (
    LEFT,
    SERVING,
    SILENCE_SECONDS,
    WAITING,
    WAITING_BEAT_SECONDS,
    OwnPresence,
    Presence,
    Sight,
    presence_path,
    read_presence,
)
from cluster.kubernetes.pod.membership.identity import Post, this_post
from cluster.kubernetes.pod.membership.rendezvous import (
    Gathering,
    agent_environment,
    node_names,
    node_of,
    read_gathering,
    write_gathering,
)
from cluster.kubernetes.pod.node_exclusion import MOST_MOVES, Placement
from cluster.kubernetes.pod.process.log import REPEAT_SECONDS, Words, numbers
from cluster.kubernetes.pod.worker import LEAVE_SECONDS, Follower, has_ended
from rundir.stop import write_stop

POST = Post(1, 2, "b", "support-1", "node-1", "support-0.support", "23456", 1795000000.5)
LIFE = Gathering("a.1", ("a", "b"), ("node-0", "node-1"))
ENVIRONMENT = {
    "TUNEYARD_POD_INDEX": "1",
    "TUNEYARD_NODES_COUNT": "2",
    "TUNEYARD_POD_UID": "b",
    "TUNEYARD_NODE_NAME": "node-1",
}


def show(run_dir: Path, index: int, **changes: object) -> None:
    path = presence_path(run_dir, index)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(Presence(**{"pod": "a", "node": "node-0", **changes}))))  # type: ignore[arg-type]


def test_a_pod_is_told_by_its_environment() -> None:
    post = this_post(ENVIRONMENT | {"TUNEYARD_SUBMITTED": "0"})
    assert (post.index, post.uid, post.submitted, post.is_head) == (1, "b", None, False)
    addresses = {"10.0.0.7": "10.0.0.7", "fd00::7": "", "": ""}
    assert {given: this_post(ENVIRONMENT | {"TUNEYARD_POD_IP": given}).address for given in addresses} == addresses
    for name in ENVIRONMENT:
        with pytest.raises(ClusterError, match=f"{name} not set"):
            this_post({key: value for key, value in ENVIRONMENT.items() if key != name})
    with pytest.raises(ClusterError, match="not a number"):
        this_post(ENVIRONMENT | {"TUNEYARD_POD_INDEX": "one"})


def test_what_was_left_by_a_dead_pod_never_lives() -> None:
    sight, left = Sight(), Presence("a", "node-0", beat=7)
    for now in range(0, 300, 2):
        sight.look(left, float(now))
        assert not sight.lives
    sight.look(replace(left, beat=8), 300.0)
    assert sight.waits
    sight.look(replace(left, beat=9, state=SERVING), 302.0)
    assert (sight.lives, sight.waits) == (True, False)


def test_a_pod_lives_until_its_file_has_stood_still_for_long() -> None:
    sight, shown = Sight(), Presence("a", "node-0")
    sight.look(shown, 0.0)
    shown = replace(shown, beat=1)
    for now in range(2, 2 + int(SILENCE_SECONDS)):
        sight.look(shown, float(now))
        assert sight.lives, "storage shows changes late"
    sight.look(shown, 3.0 + SILENCE_SECONDS)
    assert not sight.lives
    sight.look(replace(shown, beat=2), 100.0)
    assert sight.lives


def test_time_in_which_one_did_not_look_proves_nothing() -> None:
    sight = Sight()
    sight.look(Presence("a", "node-0"), 0.0)
    sight.look(Presence("a", "node-0", beat=1), 1.0)
    sight.look(Presence("a", "node-0", beat=1), 10_000.0)
    assert sight.lives


def test_a_late_write_of_a_replaced_pod_is_not_taken_for_the_new_one() -> None:
    sight = Sight()
    sight.look(Presence("new", "node-2", claim=1), 0.0)
    sight.look(Presence("old", "node-0", claim=0, beat=99), 1.0)
    assert sight.presence is not None
    assert sight.presence.pod == "new"
    sight.look(None, 2.0)
    assert sight.presence.pod == "new", "half a file says nothing"


def test_the_later_of_two_pods_has_the_post(tmp_path: Path) -> None:
    said: list[str] = []
    old = OwnPresence(tmp_path, POST, said.append)
    old.show(0.0, state=WAITING)
    assert old.replaced() is None
    new = OwnPresence(tmp_path, replace(POST, uid="a-lower-uid"), said.append)
    new.show(0.0, state=WAITING)
    assert (new.now.claim, new.replaced()) == (1, None)
    assert old.replaced() == new.now
    old.show(100.0, state=LEFT)
    assert read_presence(tmp_path, 1) == new.now, "who has lost the post writes there no more"


def test_a_beat_comes_when_it_is_due(tmp_path: Path) -> None:
    own = OwnPresence(tmp_path, POST, print)
    own.beat(0.0)
    own.beat(WAITING_BEAT_SECONDS - 0.1)
    assert own.now.beat == 1
    own.beat(WAITING_BEAT_SECONDS)
    assert read_presence(tmp_path, 1) == own.now
    assert own.now.beat == 2
    own.show(WAITING_BEAT_SECONDS + 0.1, state=SERVING, generation="a.1")
    assert (own.now.beat, read_presence(tmp_path, 1)) == (3, own.now), "what is new is shown at once"


def test_a_full_disk_is_said_once_and_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    own = OwnPresence(tmp_path, POST, said.append)
    own.beat(0.0)
    before = read_presence(tmp_path, 1)
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
    after = read_presence(tmp_path, 1)
    assert before is not None
    assert after is not None
    assert after.beat > before.beat


def test_where_no_file_can_be_written_beside_the_old_one_is_written_over(tmp_path: Path) -> None:
    own = OwnPresence(tmp_path, POST, pytest.fail)
    own.show(0.0, generation="a-long-generation.1")
    (tmp_path / "pods" / f".1.json.{os.getpid()}.new").mkdir()
    own.show(1.0, generation=None)
    assert read_presence(tmp_path, 1) == own.now


def test_agents_are_told_their_places() -> None:
    told = agent_environment(POST, LIFE, 1795000000.5)
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
    left_alone = agent_environment(replace(POST, index=0), Gathering("a.2", ("a",), ("node-0",)), 1.0)
    assert (left_alone["TUNEYARD_TRAINED"], left_alone["TUNEYARD_NODES"]) == ("1", "node-0")
    there = agent_environment(POST, replace(LIFE, address="10.0.0.7"), 1.0)
    assert there["TUNEYARD_HEAD"] == "10.0.0.7", "a name may lead to the pod's predecessor for a while"
    assert node_names(["x", "y", "x"]) == ("x#0", "y", "x#2")
    assert [node_of(name) for name in ("x#0", "y")] == ["x", "y"]


def test_a_follower_serves_each_life_that_names_it_once(tmp_path: Path) -> None:
    follower = Follower(tmp_path, POST, Words("pod 1"))
    (tmp_path / "pods").mkdir()
    assert follower.gathered(0.0) is None
    write_gathering(tmp_path, Gathering("z.1", ("z", "another"), ("n", "m")))
    assert follower.gathered(1.0) is None, "of a former pod"
    write_gathering(tmp_path, LIFE)
    assert follower.gathered(2.0) == LIFE == read_gathering(tmp_path)
    assert follower.gathered(3.0) is None


def test_a_follower_lets_go_of_a_life_whose_head_is_gone(tmp_path: Path) -> None:
    follower = Follower(tmp_path, POST, Words("pod 1"))
    assert follower.watch(LIFE, 0.0) == ""
    show(tmp_path, 0, state=WAITING, calls=True, generation=None)
    assert follower.watch(LIFE, 1.0) == "", "from before this life"
    show(tmp_path, 0, state=SERVING, generation="a.1", beat=1)
    assert follower.watch(LIFE, 2.0) == ""
    show(tmp_path, 0, state=WAITING, calls=True, generation="a.1", beat=2)
    assert follower.watch(LIFE, 3.0) == "", "its agent may be about to hear it"
    assert follower.watch(LIFE, 3.0 + LEAVE_SECONDS) == "the head's agent has ended"
    show(tmp_path, 0, pod="c", claim=1, name="support-0", state=WAITING)
    assert follower.watch(LIFE, 50.0) == "", "the agent of the old head may live: its lock is still held"
    show(tmp_path, 0, pod="c", claim=1, name="support-0", state=WAITING, calls=True)
    assert follower.watch(LIFE, 51.0) == "the head's pod was replaced by support-0"
    assert not has_ended(LIFE, Presence("a", "n", WAITING, "a.0", calls=True)), "a late sight of the time before"
    assert not has_ended(LIFE, Presence("c", "n", state=SERVING, generation="c.1"))


@pytest.mark.parametrize(
    ("shown", "seconds", "found"),
    [
        (Presence("b", "node-1", SERVING, "a.1"), 0, None),
        (Presence("b", "node-1", WAITING, None), 0, None),  # it has not read the gathering yet
        (Presence("b", "node-1", WAITING, "a.0"), 0, None),
        (Presence("b", "node-1", WAITING, "a.1"), 0, ("its agent has ended", False)),
        (Presence("b", "node-1", LEFT, "a.1"), 0, ("its pod has left", True)),
        (Presence("b", "node-1", LEFT, None), 0, ("its pod has left", True)),
        (Presence("c", "node-2", WAITING, None, name="p"), 1, None),  # the old one may be saving
        (Presence("c", "node-2", WAITING, None, name="p"), REPLACED_SECONDS, ("its pod was replaced by p", True)),
    ],
)
def test_the_followers_that_have_gone_from_a_life(shown: Presence, seconds: float, found) -> None:
    missed = absences(LIFE, {1: shown}, lambda index: seconds)
    assert [(one.words, one.blameless) for one in missed] == ([found] if found else [])


def test_a_head_waits_for_pods_and_then_for_the_back_off(tmp_path: Path) -> None:
    launch = {"nodes": 2, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1, "phases": []}
    (tmp_path / "plan.json").write_text(json.dumps({"launch": launch}))
    crashed = {"attempt": 0, "outcome": "crashed", "cause": "x", "ended": 1.0, "submitted": POST.submitted}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(crashed) + "\n")
    head = Head(tmp_path, replace(POST, index=0, uid="a", node="node-0"), Words("pod 0"))
    head.settle(0.0, 0.0)
    assert head.settled
    assert json.loads((tmp_path / "attempts.jsonl").read_text())["decision"]["wait_seconds"] == 10.0
    for now in (1.0, 2.0):
        show(tmp_path, 1, pod="b", node="node-1", beat=int(now))
        assert head.gathered(now) is None, "the back-off"
    assert head.gathered(9.9) is None
    assert head.gathered(10.0) == LIFE
    assert head.gathered(10.5) == replace(LIFE, generation="a.2"), "no generation is used twice"
    show(tmp_path, 1, pod="b", node="node-1", beat=3, state=LEFT)
    assert head.gathered(11.0) is None


@pytest.mark.parametrize(("submitted", "seconds"), [(POST.submitted, 40.0), (None, 40.0), (1795009999.5, 0.0)])
def test_who_submits_again_does_not_wait_for_the_last_time(tmp_path: Path, submitted, seconds: float) -> None:
    launch = {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1, "phases": []}
    (tmp_path / "plan.json").write_text(json.dumps({"launch": launch}))
    decision = {"action": "restart", "reason": "", "wait_seconds": 40.0, "exclude": []}
    crashed = {"attempt": 0, "outcome": "crashed", "submitted": POST.submitted, "decision": decision}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(crashed) + "\n")
    head = Head(tmp_path, replace(POST, index=0, count=1, submitted=submitted), Words("pod 0"))
    head.settle(0.0, 0.0)
    assert (head.gathered(0.0) is None, head.gathered(seconds) is None) == (seconds > 0, False)


def test_a_replaced_pod_is_missed_unless_all_are_saving(tmp_path: Path) -> None:
    head = Head(tmp_path, replace(POST, index=0, uid="a"), Words("pod 0"))
    show(tmp_path, 1, pod="c", name="p", claim=1)
    head.watch(LIFE, 0.0)
    write_stop(tmp_path, "preempted", "SIGTERM")
    head.watch(LIFE, REPLACED_SECONDS)
    assert read_absences(tmp_path, "a.1") == []
    (tmp_path / "stop").unlink()
    head.watch(LIFE, 2 * REPLACED_SECONDS)
    assert [one.words for one in read_absences(tmp_path, "a.1")] == ["its pod was replaced by p"]


def test_a_pod_leaves_an_excluded_node_so_many_times(tmp_path: Path) -> None:
    proof = {"kind": "gpu_hardware", "node": "node-1#1", "line": "GPU is lost", "blames": "node"}
    record = {"attempt": 0, "outcome": "node_failure", "ended": 4e9, "evidence": [proof]}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "pods").mkdir()
    said: list[str] = []
    assert not Placement(tmp_path, replace(POST, node="node-2"), said.append).must_move()
    for _ in range(MOST_MOVES):
        assert Placement(tmp_path, POST, said.append).must_move()
    stays = Placement(tmp_path, POST, said.append)
    assert not stays.must_move()
    assert not stays.must_move()
    assert [words.startswith("warning: ") for words in said] == [False] * MOST_MOVES + [True]
    assert Placement(tmp_path, replace(POST, submitted=1795009999.5), said.append).must_move(), "a new submission"


def test_a_move_that_cannot_be_counted_is_not_made(tmp_path: Path) -> None:
    proof = {"node": "node-1", "line": "GPU is lost", "blames": "node"}
    record = {"attempt": 0, "outcome": "node_failure", "ended": 4e9, "evidence": [proof]}
    (tmp_path / "attempts.jsonl").write_text(json.dumps(record) + "\n")
    said: list[str] = []  # there is no folder pods/
    assert not Placement(tmp_path, POST, said.append).must_move()
    assert "warning: " in said[-1]


def test_what_is_waited_for_is_said_once_and_then_every_minute(capsys: pytest.CaptureFixture[str]) -> None:
    words = Words("pod 0")
    for now in range(0, int(REPEAT_SECONDS) + 2):
        words.waiting("pods", f"pods {numbers([1, 3])} of 4", float(now))
    words.waiting("back-off", "10 s before the next attempt", REPEAT_SECONDS + 2)
    said = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == [*["waiting for pods 1, 3 of 4"] * 2, "waiting for 10 s before the next attempt"]
    assert numbers(range(20)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more"
