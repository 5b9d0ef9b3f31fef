"""Pods of a run through its ends and disruptions: exit codes, records, and who comes back."""

import json
import os
import signal

import pytest
from agent_runs import Run, lives, until
from pod_runs import LONG_SECONDS, SUBMITTED, Pod, Pods

from cluster.agent.process.children import descendants
from rundir.stop import write_stop
from tests.support.documents import read_attempts, read_progress


def plan(run: Run, nodes: int = 2, **trainer) -> Run:
    """Silence and joining take longer than a test waits: what is found sooner is found by what pods show.

    Ranks in `lockstep` wait for each other for ever; they do not agree on a step to leave at, as real ones do.
    """
    made = run.plan(["prepare", "train"], ranks=1, **{"save_every": 1, **trainer})
    more = {"restart": {"backoff_seconds": 0.1}, "silence_seconds": 600, "join_seconds": 600}
    return made.launch(nodes=nodes, grace_seconds=20, **more)


def plan_a_little_more(run: Run) -> None:
    """Has the next attempt end soon, wherever the run stands now."""
    plan(run, steps=(read_progress(run.dir) or {})["step"] + 100, step_seconds=0.001)


def ends(pods: Pods, *those) -> list[int]:
    return [pod.ends_with() for pod in those]


def test_a_run_that_finishes_ends_all_pods_with_0_and_says_how_it_was(run: Run, pods: Pods) -> None:
    plan(run, steps=20, lockstep=True)
    late = pods.start(1)
    late.says("waiting for pod 0 of 2 pods")
    head = pods.start(0)
    assert ends(pods, head, late) == [0, 0]
    (record,) = read_attempts(run.dir)
    assert (record["outcome"], record["nodes"]) == ("finished", ["node-0", "node-1"])
    assert (record["generation"], record["submitted"]) == (f"{head.uid}.1", float(SUBMITTED))
    assert head.termination_message["outcome"] == "finished"
    assert (head.termination_message["last_step"], head.termination_message["decision"]["action"]) == (20, "stop")
    (line,) = [line for line in head.words.splitlines() if line.startswith("tuneyard: ")]
    told = json.loads(line.removeprefix("tuneyard: "))
    assert (told["ledger"], told["progress"]["state"]) == ([record], "finished")
    again = pods.start(1)
    assert again.ends_with() == 0, "a pod that comes when all is over leaves at once"


def test_two_pods_on_one_node_have_names_that_differ(run: Run, pods: Pods) -> None:
    plan(run, steps=3)
    assert ends(pods, pods.start(0, node="big"), pods.start(1, node="big")) == [0, 0]
    assert run.record()["nodes"] == ["big#0", "big#1"]


@pytest.mark.parametrize("leaves", [0, 1])
def test_a_pod_that_is_evicted_saves_leaves_with_75_and_is_replaced(run: Run, pods: Pods, leaves: int) -> None:
    plan(run, steps=10**6)
    both = [pods.start(0), pods.start(1)]
    pods.trained(0)
    both[leaves].terminate()
    assert both[leaves].ends_with() == 75
    survivor = both[1 - leaves]
    plan_a_little_more(run)
    new = pods.replace(both[leaves], leaves)
    assert ends(pods, survivor, new) == [0, 0]
    first, last = read_attempts(run.dir)
    assert (first["outcome"], first["cause"], first["decision"]["wait_seconds"]) == ("preempted", "SIGTERM", 0)
    assert (last["outcome"], last["first_step"]) == ("finished", first["last_step"])
    head = new if leaves == 0 else survivor
    assert last["generation"] == f"{head.uid}.{1 if leaves == 0 else 2}"


@pytest.mark.parametrize("dies", [0, 1])
def test_a_pod_that_is_killed_costs_an_attempt_and_no_crash(run: Run, pods: Pods, dies: int) -> None:
    plan(run, steps=10**6, lockstep=True)
    both = [pods.start(0), pods.start(1)]
    pods.trained(0)
    ranks = run.rank_pids()
    both[dies].die()
    until(lambda: not lives(ranks[dies]), "the killed pod's rank to be gone")
    plan_a_little_more(run)
    new = pods.replace(both[dies], dies)
    survivor = both[1 - dies]
    assert ends(pods, survivor, new) == [0, 0]
    first, last = read_attempts(run.dir)
    assert first["outcome"] == ("preempted" if dies == 0 else "node_failure")
    assert last["outcome"] == "finished"
    assert last["first_step"] >= 5
    assert not lives(ranks[1 - dies]), "its rank waited in a collective for ever"
    if dies == 1:
        assert [(item["kind"], item["blames"]) for item in first["evidence"]] == [("left_node", "scheduler")]
        assert first["cause"] == f"train: node-1: its pod was replaced by support-1-{new.uid}"


def test_a_crash_is_restarted_in_place(run: Run, pods: Pods) -> None:
    plan(run, steps=30, raise_at={"0": 12}, lockstep=True)
    both = [pods.start(0), pods.start(1)]
    assert ends(pods, *both) == [0, 0]
    assert pods.outcomes() == ["crashed", "finished"]
    assert len({record["generation"] for record in read_attempts(run.dir)}) == 1


def test_a_run_that_the_policy_gives_up_ends_all_pods_with_3(run: Run, pods: Pods) -> None:
    plan(run, steps=30, raise_at={"0": 3, "1": 4}, save_every=1).launch(
        restart={"max_crashes": 1, "backoff_seconds": 0}
    )
    assert ends(pods, pods.start(0), pods.start(1)) == [3, 3]
    assert pods.outcomes() == ["crashed", "crashed"]


def test_a_fatal_end_ends_all_pods_with_2(run: Run, pods: Pods) -> None:
    plan(run, steps=30, fatal_at=4)
    head, follower = pods.start(0), pods.start(1)
    assert ends(pods, head, follower) == [2, 2]
    assert head.termination_message["cause"].startswith("out of memory")


def test_a_users_stop_ends_all_pods_with_4(run: Run, pods: Pods) -> None:
    plan(run, steps=10**6)
    both = [pods.start(0), pods.start(1)]
    pods.trained(0)
    write_stop(run.dir, "stopped", "tuneyard cancel", urgent=True)
    assert ends(pods, *both) == [4, 4]
    assert pods.outcomes() == ["stopped"]
    assert pods.start(0).ends_with() == 4


def test_a_follower_that_misses_the_last_word_leaves_all_the_same(run: Run, pods: Pods) -> None:
    plan(run, steps=10**6)
    head, follower = pods.start(0), pods.start(1)
    pods.trained(0)
    os.kill(descendants(follower.process.pid)[0], signal.SIGSTOP)  # its agent hears nothing any more
    write_stop(run.dir, "stopped", "tuneyard cancel", urgent=True)
    assert ends(pods, head, follower) == [4, 4]
    assert "the run is over: ending the agent" in follower.words


def test_a_users_stop_counts_while_a_back_off_passes(run: Run, pods: Pods) -> None:
    plan(run, steps=30, raise_at={"0": 3}).launch(restart={"backoff_seconds": 600})
    both = [pods.start(0), pods.start(1)]
    until(lambda: any(record.get("decision") for record in read_attempts(run.dir)), "a back-off", LONG_SECONDS)
    write_stop(run.dir, "stopped", "tuneyard stop")
    assert ends(pods, *both) == [4, 4]
    assert pods.outcomes() == ["crashed", "stopped"]


@pytest.mark.parametrize("present", [0, 1])
def test_a_users_stop_counts_while_nobody_trains(run: Run, pods: Pods, present: int) -> None:
    plan(run, steps=10**6)
    pod = pods.start(present)
    pod.says("waiting for")
    write_stop(run.dir, "stopped", "tuneyard stop")
    assert pod.ends_with() == 4
    assert (run.record()["outcome"], run.record()["cause"]) == ("stopped", "tuneyard stop")
    assert pods.start(1 - present).ends_with() == 4
    assert len(read_attempts(run.dir)) == 1


def test_what_a_former_submission_left_does_not_count(run: Run, pods: Pods) -> None:
    plan(run, steps=5)
    write_stop(run.dir, "stopped", "tuneyard stop")
    assert pods.start(0).ends_with() == 4
    stale = {"pod": "dead", "node": "gone", "state": "waiting", "beat": 7, "claim": 4}
    for index in (0, 1):
        (run.dir / "pods" / f"{index}.json").write_text(json.dumps(stale))
    submitted = "1795009999.5"  # older than the stop by the clocks: it was granted all the same
    head = pods.start(0, TUNEYARD_SUBMITTED=submitted)
    head.says("waiting for pod 1 of 2")
    assert ends(pods, head, pods.start(1, TUNEYARD_SUBMITTED=submitted)) == [0, 0]
    assert pods.outcomes() == ["stopped", "finished"]


def test_a_pod_that_waits_leaves_at_once(run: Run, pods: Pods) -> None:
    plan(run, steps=5)
    for index in (0, 1):
        pod = pods.start(index)
        pod.says("waiting for")
        pod.terminate()
        assert pod.ends_with() == 75
    assert pods.outcomes() == []


def test_the_newer_of_two_pods_with_one_index_has_the_post(run: Run, pods: Pods) -> None:
    plan(run, steps=10**6)
    head, old = pods.start(0), pods.start(1)
    pods.trained(0)
    new = pods.start(1, uid="a-new-uid")
    assert old.ends_with() == 75
    plan_a_little_more(run)
    assert ends(pods, head, new) == [0, 0]
    first, last = read_attempts(run.dir)
    assert (first["outcome"], last["outcome"]) == ("preempted", "finished")
    assert last["first_step"] == first["last_step"]


def test_a_new_head_has_the_old_one_save_and_leave(run: Run, pods: Pods) -> None:
    plan(run, steps=10**6)
    old, follower = pods.start(0), pods.start(1)
    pods.trained(0)
    os.kill(old.process.pid, signal.SIGSTOP)  # its agent lives on and knows nothing, as behind a broken network
    new = pods.start(0)
    new.says("waiting for an agent of an earlier rendezvous to save and leave")
    plan_a_little_more(run)
    assert ends(pods, new, follower) == [0, 0]
    first, last = read_attempts(run.dir)
    assert (first["outcome"], last["outcome"]) == ("preempted", "finished")
    assert first["cause"] == f"its pod was replaced by support-0-{new.uid}"
    assert last["first_step"] == first["last_step"]
    os.kill(old.process.pid, signal.SIGCONT)
    assert old.ends_with() in (0, 75), "it finds its post taken, or the run over"
    assert read_attempts(run.dir) == [first, last]


def test_all_pods_are_replaced_while_they_save(run: Run, pods: Pods) -> None:
    plan(run, steps=10**6)
    old = [pods.start(0), pods.start(1)]
    pods.trained(0)
    new = [pods.start(0), pods.start(1)]  # as an upgrade of the chart does it
    for pod in old:
        pod.terminate()
    assert ends(pods, *old) == [75, 75]
    plan_a_little_more(run)
    assert ends(pods, *new) == [0, 0]
    first, last = read_attempts(run.dir)
    assert (first["outcome"], last["outcome"]) == ("preempted", "finished")
    assert last["first_step"] == first["last_step"]
    assert last["generation"].startswith(new[0].uid)


def test_an_agent_that_is_killed_is_a_crash_and_its_followers_come_back(run: Run, pods: Pods) -> None:
    plan(run, steps=10**6, lockstep=True, leave_orphan=True)
    both = [pods.start(0), pods.start(1)]
    pods.trained(0)
    orphan = run.pid_in("orphan0.pid")
    os.kill(json.loads((run.dir / "agent.lock").read_text())["pid"], signal.SIGKILL)
    plan_a_little_more(run)
    assert ends(pods, *both) == [0, 0]
    assert [(record["outcome"], record["cause"]) for record in read_attempts(run.dir)] == [
        ("crashed", "the agent was killed"),
        ("finished", ""),
    ]
    assert not lives(orphan)


def test_a_pod_leaves_an_excluded_node_twice_and_then_stays(run: Run, pods: Pods) -> None:
    plan(run, steps=5)
    failed = {"attempt": 0, "outcome": "node_failure", "submitted": float(SUBMITTED), "ended": 4e9}
    proof = {"kind": "gpu_hardware", "node": "node-1", "line": "GPU is lost", "blames": "node"}
    (run.dir / "attempts.jsonl").write_text(json.dumps({**failed, "evidence": [proof]}) + "\n")
    head = pods.start(0)
    assert [pods.start(1).ends_with() for _ in range(2)] == [75, 75]
    stays = pods.start(1)
    assert ends(pods, head, stays) == [0, 0]
    assert "warning: the restart policy keeps away from node node-1: GPU is lost" in stays.words


def test_a_pod_whose_agent_cannot_begin_ends_after_three_tries(run: Run, pods: Pods) -> None:
    run.plan(["train"], ranks=1)
    (run.dir / "logs").write_text("a file where a folder should be")
    pod = pods.start(0, of=1)
    assert pod.process.wait(2 * LONG_SECONDS) == 1
    assert pod.words.count("could not begin an attempt") == 3


def test_eight_pods_gather_however_they_start(run: Run, pods: Pods) -> None:
    plan(run, nodes=8, steps=5)
    run.launch(nodes=8)
    first = [pods.start(index, of=8) for index in (5, 3, 7)]
    head = pods.start(0, of=8)
    head.says("waiting for pods 1, 2")
    rest = [pods.start(index, of=8) for index in (6, 4, 2, 1)]
    assert ends(pods, head, *first, *rest) == [0] * 8


def test_the_environment_of_no_pod_is_refused(run: Run, pods: Pods) -> None:
    plan(run)
    pod = pods.start(2)
    assert (pod.ends_with(), "TUNEYARD_POD_INDEX is 2, and TUNEYARD_NODES_COUNT is 2" in pod.words) == (2, True)


def plan_export(run: Run, export_seconds: float, **trainer) -> None:
    trainer |= {"steps": 10, "save_every": 1, "export_seconds": export_seconds}
    made = run.plan(["prepare", "train", "export"], ranks=1, **trainer)
    more = {"restart": {"backoff_seconds": 0.1}, "silence_seconds": 600, "join_seconds": 600}
    made.launch(nodes=3, grace_seconds=20, **more)


def exporting(run: Run, pods: Pods) -> list[Pod]:
    """Three pods that have trained; the export has begun."""
    plan_export(run, 600)
    found = [pods.start(index, of=3) for index in range(3)]
    until(lambda: (run.dir / "export.pid").exists(), "the export to begin", LONG_SECONDS)
    return found


def test_pods_that_have_trained_leave_and_a_new_head_finishes_alone(run: Run, pods: Pods) -> None:
    head, *others = exporting(run, pods)
    assert ends(pods, *others) == [0, 0], "their nodes are given back while the export goes on"
    assert head.process.poll() is None and read_attempts(run.dir)[0]["outcome"] is None
    plan_export(run, 0)
    head.die()
    until(lambda: not lives(int((run.dir / "export.pid").read_text())), "the export to be gone", LONG_SECONDS)
    assert pods.replace(head, 0, of=3).ends_with() == 0
    lost, last = read_attempts(run.dir)
    assert (lost["outcome"], lost["nodes"]) == ("preempted", ["node-0", "node-1", "node-2"])
    assert (last["outcome"], last["nodes"]) == ("finished", ["node-0"])
    assert (list(last["exit_codes"]), last["last_step"]) == (["export"], 10)
    assert pods.start(2, of=3).ends_with() == 0, "one that is made again all the same has nothing to do"


def test_a_head_that_is_told_to_leave_while_it_exports_leaves_with_75(run: Run, pods: Pods) -> None:
    head, *others = exporting(run, pods)
    assert ends(pods, *others) == [0, 0]
    head.terminate()
    assert head.ends_with() == 75
    plan_export(run, 0)
    assert pods.replace(head, 0, of=3).ends_with() == 0
    assert pods.outcomes() == ["preempted", "finished"]


def test_an_export_that_fails_in_a_head_left_alone_leaves_the_run_finished(run: Run, pods: Pods) -> None:
    head, *others = exporting(run, pods)
    assert ends(pods, *others) == [0, 0]
    plan_export(run, 0, export_exit=1)
    head.die()
    assert pods.replace(head, 0, of=3).ends_with() == 0
    assert pods.outcomes() == ["preempted", "finished"]
    assert read_attempts(run.dir)[1]["cause"].startswith("trained and saved, but export: exit code 1")
