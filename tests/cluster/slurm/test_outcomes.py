"""How jobs end on the real controller, what the record says about it, and whether the run comes back."""

import os
import signal
import time
from pathlib import Path

from slurm_runs import SlurmRun, until

from cluster.slurm.backend import SlurmBackend
from cluster.slurm.scheduler import Scheduler
from slurm.testbed import Testbed


def high_job(bed: Testbed, nodes: int = 4) -> str:
    options = ("--partition=high", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    return bed.run("sbatch", "--parsable", *options)


def test_walltime_slices_lose_nothing(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(
        slurm_testbed, tmp_path / "sliced", slurm={"partition": "short"}, walltime_seconds=120, grace_seconds=10
    )
    job = run.submit()
    record = run.closed(0, 150)
    assert (record["outcome"], record["cause"]) == ("walltime", "warned by SLURM")
    assert record["last_checkpoint_step"] == record["last_step"] > 100
    assert record["decision"]["action"] == "restart"
    until(lambda: run.backend.status(run.dir).state == "queued", "the requeue")
    assert "requeued" in run.backend.status(run.dir).reason
    second = run.trains(1)
    assert second["generation"] == f"{job}.1"
    run.backend.cancel(run.dir)
    assert run.records()[1]["first_step"] == record["last_step"]


def test_a_node_that_goes_down_is_named_and_the_run_comes_back(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "down", grace_seconds=4)
    job = run.submit()
    node = run.trains(0)["nodes"][1]
    slurm_testbed.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    record = run.closed(0)
    assert record["outcome"] == "node_failure"
    assert record["cause"] == f"the scheduler calls {node} down; SIGTERM"
    assert [(item["kind"], item["node"]) for item in record["evidence"]] == [("node_down", node)]
    assert run.trains(1)["generation"] == f"{job}.1"


def test_a_node_whose_daemon_is_killed_is_a_lost_node_too(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "slurmd", grace_seconds=4)
    run.submit()
    node = run.trains(0)["nodes"][0]  # the head's: its agent and its batch script live on, and nobody tells them
    slurm_testbed.kill_slurmd(node)
    assert node not in run.trains(1)["nodes"]
    record = run.records()[0]
    assert (record["outcome"], record["evidence"][0]["node"]) == ("node_failure", node)
    assert record["last_checkpoint_step"] == record["last_step"]


def test_a_hang_on_another_node_is_ended_and_the_run_goes_on_in_the_same_job(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    trainer = {"steps": 10**6, "save_every": 5, "lockstep": True}
    run = SlurmRun(slurm_testbed, tmp_path / "hang", trainer, hang_seconds=3)
    job = run.submit()
    node = run.trains(0)["nodes"][1]
    os.kill(run.rank_pid(1), signal.SIGSTOP)
    record = run.closed(0)
    assert record["outcome"] == "hang"
    assert record["cause"].endswith("; rank 1 is stopped (SIGSTOP); rank 0 waits in all_reduce")
    assert [(item["kind"], item["node"]) for item in record["evidence"]] == [("stuck_rank", node)]
    assert run.trains(1)["generation"] == f"{job}.0"


def test_a_crash_loop_ends_with_its_budget_and_a_failed_job(slurm_testbed: Testbed, tmp_path: Path) -> None:
    trainer = {"steps": 100, "save_every": 2, "raise_at": {str(life): 5 + 3 * life for life in range(9)}}
    run = SlurmRun(slurm_testbed, tmp_path / "loop", trainer, restart={"max_crashes": 2, "backoff_seconds": 0.1})
    job = run.submit()
    assert run.ended() == "crashed"
    assert [record["outcome"] for record in run.records()] == ["crashed"] * 3
    decision = run.records()[-1]["decision"]
    assert decision["action"] == "stop"
    assert decision["reason"].startswith("3 crashes or hangs within 24 hours (max_crashes is 2): train: rank 0")
    found = run.backend._scheduler.job(job)
    assert found is not None
    assert (found.state, found.exit_code, found.restarts) == ("FAILED", 3, 0)


def test_scancel_leaves_it_cancelled(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "scancel")
    job = run.submit()
    run.trains(0)
    slurm_testbed.run("scancel", job)
    assert run.ended() == "stopped"
    assert "was cancelled; SIGTERM" in run.backend.status(run.dir).reason
    assert run.records()[0]["last_checkpoint_step"] == run.records()[0]["last_step"], "it was saved all the same"
    time.sleep(2)
    found = run.backend._scheduler.job(job)
    assert found is not None
    assert (found.state, found.restarts) == ("CANCELLED", 0)


def test_a_killed_head_is_closed_by_its_script_and_started_again(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "killed", silence_seconds=3)
    job = run.submit()
    head = slurm_testbed.host(run.trains(0)["nodes"][0])
    for pid in head.processes():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"cluster.slurm.task" in words and b"python" in words[0]:
            os.kill(pid, signal.SIGKILL)
    record = run.closed(0)
    assert (record["outcome"], record["cause"]) == ("crashed", "the agent was killed")
    assert run.trains(1)["generation"] == f"{job}.1"


def test_a_run_outlives_the_controller(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "controller", {"steps": 10**6}, nodes=1)
    job = run.submit()
    run.trains(0)
    run.backend = SlurmBackend(Scheduler(retry_seconds=()))
    slurm_testbed.stop_controller()
    status = run.backend.status(run.dir)
    assert status.state == "running"
    assert status.reason.startswith("SLURM does not answer")
    slurm_testbed.start_controller()
    (run.dir / "stop").touch()
    assert run.ended() == "stopped"
    assert [record["generation"] for record in run.records()] == [f"{job}.0"]


def test_where_requeueing_is_forbidden_a_continuation_waits_and_goes_with_the_run(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "chain", nodes=4, slurm={"partition": "norequeue", "requeue": False})
    first = run.submit()
    run.trains(0)
    assert slurm_testbed.run("squeue", "--noheader", "--states=PENDING", "--format=%r") == "Dependency"
    high_job(slurm_testbed)
    assert run.closed(0)["outcome"] == "preempted"
    second = run.trains(1)
    assert second["generation"] not in ("", f"{first}.0")
    assert second["generation"].endswith(".0")
    assert run.backend.status(run.dir).state == "running"
    (run.dir / "stop").touch()
    assert run.ended() == "stopped"
    until(lambda: not slurm_testbed.run("squeue", "--noheader"), "the last continuation to be taken back")
