"""What the agents of several nodes tell each other, and what the head makes of it."""

import time
from pathlib import Path

import pytest

from cluster.agent.health.checks import Check, gate_of
from cluster.agent.multinode.leader import WorkerGroup, joint_end
from cluster.agent.multinode.messages import (
    TRAIN,
    Command,
    Report,
    read_command,
    read_departed,
    read_report,
    write_command,
    write_report,
)
from cluster.agent.process.node import Node
from cluster.agent.process.stop_request import StopRequests
from cluster.agent.verdict.log_evidence import Evidence, in_order, lost_node, without_aftermath
from cluster.agent.verdict.outcome import PhaseEnd, Verdict, abandoned, judge, with_down_nodes
from cluster.liveness import LivenessTimeout
from cluster.process_identity import ProcessIdentity
from rundir.attempts import AttemptRecord
from rundir.outcome import Outcome, StopReason
from rundir.plan import LaunchSpec
from rundir.progress import Progress
from rundir.stop import StopRequest, read_stop, write_stop
from tests.support.documents import put_attempt

LAUNCH = LaunchSpec(
    nodes=3,
    ranks_per_node=2,
    device="cpu",
    threads_per_rank=1,
    grace_seconds=10,
    phases=("train",),
    join_seconds=0.3,
    silence_seconds=60,
)
NODE = Node(("n1", "n2", "n3"), generation="7.0", head="n1")
OWN = PhaseEnd("train", 1, 10.0, words="rank 0 exit code 1")


def report(rank: int, end: PhaseEnd | None = None, ended: float = 5.0, **changes) -> Report:
    facts = {"generation": "7.0", "rank": rank, "node": f"n{rank + 1}", "attempt": 0}
    facts |= {"sequence_number": 1, "command": TRAIN}
    return Report(**{**facts, "done": True, "end": end, "ended": ended, **changes})


def test_words_are_read_as_they_were_written_and_another_generations_are_not(tmp_path: Path) -> None:
    said = Command("7.0", 1, TRAIN, 0, "n1:20100")
    write_command(tmp_path, said)
    assert read_command(tmp_path, "7.0") == said
    assert read_command(tmp_path, "7.1") is None
    proof = Evidence("stuck_rank", "n2", "rank 2 is stopped", "suspect", Outcome.HANG)
    end = PhaseEnd("train", -9, 3.0, True, "", "", (proof,), ((True, "rank 2 is stopped"),))
    answer = report(1, end, health=(Check("gpus", False, "7 GPUs, 8 needed"),))
    write_report(tmp_path, answer)
    assert read_report(tmp_path, said, 1) == answer
    assert read_report(tmp_path, Command("7.0", 2, TRAIN), 1) is None, "an answer to another question"
    assert read_report(tmp_path, Command("7.1", 1, TRAIN), 1) is None
    assert read_report(tmp_path, said, 2) is None


def test_what_other_nodes_are_waited_for_to_say_has_its_file_at_once(tmp_path: Path) -> None:
    assert (read_command(tmp_path, "7.0"), read_departed(tmp_path, "7.0")) == (None, [])
    (tmp_path / "logs" / "attempt-000").mkdir(parents=True)
    assert read_report(tmp_path, Command("7.0", 1, TRAIN), 1) is None
    waited_for = [tmp_path / "invitation.json", tmp_path / "absent.json", tmp_path / "logs/attempt-000/node-01.json"]
    assert [path.stat().st_size for path in waited_for] == [0, 0, 0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"generation": "7.0", "unheard": 1}'])
def test_what_cannot_be_read_now_has_not_been_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "invitation.json").write_text(text)
    assert read_command(tmp_path, "7.0") is None


def test_silence_counts_only_while_one_looks() -> None:
    silence = LivenessTimeout(60)
    assert not any(silence.has_passed(1, second) for second in range(60))
    assert silence.has_passed(1, 60)
    frozen = LivenessTimeout(60)
    assert not frozen.has_passed(1, 0)
    assert not frozen.has_passed(1, 10_000), "it was we who slept"
    moving = LivenessTimeout(60)
    assert not any(moving.has_passed(second // 50, second) for second in range(500))


def test_one_node_has_nobody_to_invite(tmp_path: Path) -> None:
    workers = WorkerGroup(tmp_path, Node(("n1",)))
    workers.command_check(LAUNCH, 0)
    assert (workers.command_train(0), workers.collect(60), workers.trouble(1.0)) == ("", [], "")
    assert workers.end_training(OWN, hurried=False) is OWN
    workers.beat()
    workers.shut_down()
    assert list(tmp_path.iterdir()) == []


def test_who_does_not_report_in_time_is_lost(tmp_path: Path) -> None:
    workers = WorkerGroup(tmp_path, NODE)
    workers.command_check(LAUNCH, 0)
    write_report(tmp_path, report(1, command="check"))
    began = time.monotonic()
    assert [one.node for one in workers.collect(0.3)] == ["n2"]
    assert time.monotonic() - began < 2
    assert workers.departed == {"n3": "n3 did not report within 0.3 s"}
    assert [one.node for one in workers.collect(60)] == ["n2"], "nobody waits twice for the lost"


def test_a_follower_that_failed_is_named_and_one_that_finished_is_no_trouble(tmp_path: Path) -> None:
    workers = WorkerGroup(tmp_path, NODE)
    workers.command_check(LAUNCH, 0)
    endpoint = workers.command_train(0)
    assert endpoint.startswith("n1:")
    write_report(tmp_path, report(1, PhaseEnd("train", 0), sequence_number=2))
    write_report(tmp_path, report(2, PhaseEnd("train", 1, words="rank 4 killed by SIGKILL"), sequence_number=2))
    assert workers.trouble(100.0) == "n3: rank 4 killed by SIGKILL"


def test_the_rank_that_was_killed_explains_the_others() -> None:
    late = report(1, PhaseEnd("train", 1, words="rank 3 killed by SIGKILL"), ended=9.0)
    early = report(2, PhaseEnd("train", 1, words="rank 4 exit code 1"), ended=2.0)
    assert joint_end(OWN, [early, late], {}).words == "rank 3 killed by SIGKILL"
    assert joint_end(OWN, [early], {}).words == "rank 0 exit code 1"
    ended = PhaseEnd("train", -9, 10.0, ended_by_agent=True)
    assert joint_end(ended, [early], {}).words == "rank 4 exit code 1"


def test_a_lost_node_is_a_node_failure_that_names_it_and_its_peers_broken_connections_are_aftermath() -> None:
    broken = Evidence("connection", "n1", "Connection closed by peer", "suspect", words="a connection broke")
    end = joint_end(OWN, [], {"n2": "no sign of n2 for 60 s"})
    found = without_aftermath(in_order([broken, *end.proofs]), killed=False)
    verdict = judge(0, [end], ("train",), Progress(attempt=0, state="training"), None, found)
    assert (verdict.outcome, verdict.cause) == (Outcome.NODE_FAILURE, "train: no sign of n2 for 60 s")
    assert [(item.kind, item.node) for item in verdict.evidence] == [("lost_node", "n2")]


def test_a_hang_names_ranks_of_all_nodes_those_that_cannot_run_first() -> None:
    own = PhaseEnd("train", -9, 9.0, True, "", "no heartbeat for 61 s at step 12", (), ((False, "rank 0 waits"),))
    stuck = PhaseEnd("train", -9, 9.0, True, named=((True, "rank 3 is stopped"),))
    assert joint_end(own, [report(1, stuck)], {}).hang_words == (
        "no heartbeat for 61 s at step 12; rank 3 is stopped; rank 0 waits"
    )


def test_a_run_that_finished_stays_finished_whatever_a_follower_says_last() -> None:
    done = PhaseEnd("train", 0, 10.0)
    end = joint_end(done, [report(1, PhaseEnd("train", -9, 9.0, True))], {"n3": "n3 did not report within 30 s"})
    assert (end.exit_code, end.proofs) == (0, ())


def test_what_explains_others_comes_first() -> None:
    kinds = ["connection", "health", "out_of_memory", "lost_node", "gpu_hardware", "host_out_of_memory"]
    found = [Evidence(kind, "n1", "", "job") for kind in kinds]
    assert [item.kind for item in in_order(found)] == [
        "lost_node",
        "host_out_of_memory",
        "gpu_hardware",
        "out_of_memory",
        "connection",
        "health",
    ]


def test_the_gate_of_several_nodes_names_the_one_that_is_not_fit() -> None:
    good, bad = Check("gpus", True, "8 x H100, idle"), Check("gpus", False, "7 GPUs, 8 needed")
    assert gate_of({"n1": [good], "n2": [good]}) is None
    closed = gate_of({"n1": [good], "n2": [bad]})
    assert closed is not None
    assert (closed.outcome, closed.cause) == (Outcome.NODE_FAILURE, "health: n2: gpus: 7 GPUs, 8 needed")
    assert closed.evidence[0].node == "n2"


def test_a_scheduler_that_calls_a_node_down_explains_why_machines_were_taken() -> None:
    told = Verdict(Outcome.PREEMPTED, "SIGTERM")
    assert with_down_nodes(told, ["n1", "n2"], {"n3": "down"}) == told
    verdict = with_down_nodes(told, ["n1", "n2"], {"n2": "down", "n3": "down"})
    assert (verdict.outcome, verdict.cause) == (Outcome.NODE_FAILURE, "the scheduler calls n2 down; SIGTERM")
    assert (verdict.evidence[0].node, verdict.evidence[0].blames) == ("n2", "scheduler")
    finished = Verdict(Outcome.FINISHED, "")
    assert with_down_nodes(finished, ["n2"], {"n2": "down"}) == finished
    assert lost_node("n2", "gone").blames == "suspect"


def test_an_agent_of_an_earlier_life_of_the_job_was_ended_by_the_scheduler() -> None:
    record, me = AttemptRecord(started=100.0, generation="7.0"), ProcessIdentity(boot="b")
    assert abandoned(record, None, me, "b", "7.0").outcome == Outcome.CRASHED
    assert abandoned(record, None, me, "b", "7.1").outcome == Outcome.PREEMPTED
    assert abandoned(AttemptRecord(started=100.0), None, me, "b", "7.1").outcome == Outcome.CRASHED
    asked = StopRequest(reason=StopReason.WALLTIME, by="warned by SLURM", time=101.0)
    assert abandoned(record, asked, me, "b", "7.1").outcome == Outcome.WALLTIME


def test_an_urgent_wish_starts_the_grace_period(tmp_path: Path) -> None:
    stop_requests = StopRequests(tmp_path, print)
    write_stop(tmp_path, "stopped", "somebody")
    assert stop_requests.poll() is not None
    assert stop_requests.signalled_at is None
    write_stop(tmp_path, "walltime", "warned by SLURM", urgent=True)
    stop_requests.poll()
    assert stop_requests.signalled_at is not None


@pytest.mark.parametrize(("wished_after", "stays"), [("nothing", False), ("submit", True), ("last attempt", True)])
def test_a_wish_that_came_while_the_run_waited_in_the_queue_stays(tmp_path: Path, wished_after, stays) -> None:
    now = time.time()
    submitted = now + 10 if wished_after == "nothing" else now - 100
    if wished_after == "last attempt":
        put_attempt(tmp_path, {"attempt": 0, "outcome": "preempted", "ended": now - 50})
    write_stop(tmp_path, "stopped", "tuneyard stop")
    StopRequests(tmp_path, print).clear_stale(submitted)
    assert (read_stop(tmp_path) is not None) == stays
    put_attempt(tmp_path, {"attempt": 1, "outcome": "stopped", "ended": time.time() + 1})
    StopRequests(tmp_path, print).clear_stale(submitted)
    assert read_stop(tmp_path) is None


def test_a_follower_does_not_hear_the_last_lifes_urgent_wish(tmp_path: Path) -> None:
    """The head clears it, and may be later: a worker that heard it would end its ranks when the grace is over."""
    write_stop(tmp_path, "stopped", "tuneyard cancel", urgent=True)
    worker = StopRequests(tmp_path, print)
    worker.ignore_stale(submitted=time.time() + 1)
    assert worker.poll() is None and worker.signalled_at is None
    write_stop(tmp_path, "preempted", "warned by SLURM", urgent=True)
    assert worker.poll() is not None and worker.signalled_at is not None
    other = StopRequests(tmp_path, print)
    other.ignore_stale(submitted=time.time() - 60)  # it came after the submit: it is meant
    assert other.poll() is not None and other.signalled_at is not None
