"""How jobs end on the real controller, what the record says about it, and whether the run comes back."""

import os
import signal
from pathlib import Path

from slurm_runs import SlurmRun

from cluster.slurm.backend import SlurmBackend
from cluster.slurm.scheduler.commands import Scheduler
from slurm.testbed import Testbed
from tests.cluster.outcomes.standin_run import until


def high_job(bed: Testbed, nodes: int = 4) -> str:
    options = ("--partition=high", f"--nodes={nodes}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    return bed.run("sbatch", "--parsable", *options)


def test_a_killed_head_is_closed_by_its_script_and_started_again(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "killed", silence_seconds=3)
    job = run.submit()
    head = slurm_testbed.host(run.trains(0)["nodes"][0])
    for pid in head.processes():
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"cluster.slurm.job.srun_entry" in words and b"python" in words[0]:
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


def test_scancel_where_requeueing_is_forbidden_ends_the_continuation_too(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "chained", nodes=1, slurm={"partition": "norequeue", "requeue": False})
    first = run.submit()
    run.trains(0)
    slurm_testbed.run("scancel", first)
    assert run.ended() == "stopped"
    (record,) = run.records()
    assert (record["outcome"], record["cause"]) == ("stopped", f"job {first} was cancelled; SIGTERM")
    assert record["decision"]["action"] == "stop"
    assert record["last_checkpoint_step"] == record["last_step"]
    assert slurm_testbed.run("squeue", "--noheader") == ""
    run.submit()
    assert run.trains(1)["attempt"] == 1
    run.backend.cancel(run.dir)
