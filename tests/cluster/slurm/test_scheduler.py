"""The scheduler's commands against a real controller: every fact and every refusal is its own."""

import subprocess
import threading
from pathlib import Path

import pytest

from cluster.slurm.scheduler.commands import Scheduler
from cluster.slurm.scheduler.errors import SlurmError, refusal
from cluster.slurm.scheduler.facts import SlurmJob
from cluster.slurm.status.pending_reason import explain
from cluster.slurm.status.scheduler_facts import read_scheduler_facts
from slurm.testbed import Testbed
from slurm.testbed.host import wait_until

QUICK = "#!/bin/bash\nexit 42\n"
LONG = "#!/bin/bash\nsleep 300\n"


@pytest.fixture
def scheduler(slurm_testbed: Testbed) -> Scheduler:
    return Scheduler(retry_seconds=(0.1,))


def submit(scheduler: Scheduler, folder: Path, *options: str, text: str = LONG) -> str:
    script = folder / "job.sh"
    script.write_text(text)
    return scheduler.sbatch(script, f"--output={folder}/%j.out", *options)


def state(scheduler: Scheduler, job_id: str) -> str:
    job = scheduler.job(job_id)
    return job.state if job else ""


def until_state(scheduler: Scheduler, job_id: str, wanted: str, seconds: float = 30) -> None:
    wait_until(lambda: state(scheduler, job_id) == wanted, seconds, lambda: f"{scheduler.job(job_id)}")


def until_reason(scheduler: Scheduler, job_id: str, wanted: str) -> None:
    def is_so() -> bool:
        job = scheduler.job(job_id)
        return job is not None and job.reason.startswith(wanted)

    wait_until(is_so, 30, lambda: f"{scheduler.job(job_id)}")


def test_a_job_from_submission_to_its_exit_code(scheduler: Scheduler, tmp_path: Path) -> None:
    job_id = submit(scheduler, tmp_path, "--nodes=2", text=QUICK)
    until_state(scheduler, job_id, "FAILED")
    job = scheduler.job(job_id)
    assert job is not None
    assert (job.exit_code, job.exit_signal, job.restarts, job.partition) == (42, 0, 0, "low")
    assert scheduler.hostnames(job.nodes) == ["n1", "n2"]
    assert job.started and job.ended and 0 <= job.ended - job.started < 30


def test_site_facts(scheduler: Scheduler) -> None:
    assert scheduler.version()[0] >= 22
    assert scheduler.config()["JobRequeue"] == "1"
    assert {partition.name for partition in scheduler.partitions()} >= {"low", "high", "short"}
    (node,) = scheduler.node_facts("n2")
    assert (node.name, node.gpus, node.address) == ("n2", {"h100": 8}, "127.0.0.1")
    assert len(scheduler.node_facts()) == 4


def test_requeue_hold_release_and_cancel(scheduler: Scheduler, tmp_path: Path) -> None:
    job_id = submit(scheduler, tmp_path)
    until_state(scheduler, job_id, "RUNNING")
    scheduler.requeue(job_id)
    until_reason(scheduler, job_id, "BeginTime")
    job = scheduler.job(job_id)
    assert job is not None and job.restarts == 1
    assert "requeued jobs wait (8 s here)" in explain(job, read_scheduler_facts(scheduler, job)).words
    scheduler.start_now(job_id)
    until_state(scheduler, job_id, "RUNNING")
    scheduler.cancel(job_id)
    until_state(scheduler, job_id, "CANCELLED")
    scheduler.cancel(job_id)


def test_a_held_job_is_explained_and_released(scheduler: Scheduler, tmp_path: Path) -> None:
    job_id = submit(scheduler, tmp_path, "--hold")
    until_reason(scheduler, job_id, "JobHeldUser")
    scheduler.release(job_id)
    until_state(scheduler, job_id, "RUNNING")


def test_a_job_array_is_several_jobs(scheduler: Scheduler, tmp_path: Path) -> None:
    job_id = submit(scheduler, tmp_path, "--array=0-1", text=QUICK)
    wait_until(lambda: {job.state for job in scheduler.jobs(job_id)} == {"FAILED"}, 30, "they do not end")
    assert {job.id for job in scheduler.jobs(job_id)} == {f"{job_id}_0", f"{job_id}_1"}


def test_pending_reasons_are_slurms_own(scheduler: Scheduler, tmp_path: Path) -> None:
    submit(scheduler, tmp_path, "--nodes=4", "--exclusive")
    waiting = submit(scheduler, tmp_path, "--nodes=4", "--exclusive")
    long = submit(scheduler, tmp_path, "--partition=short", "--time=10")
    until_reason(scheduler, waiting, "Resources")
    job = scheduler.job(waiting)
    assert job is not None
    assert "4 fitting nodes are free (4 allocated)" in explain(job, read_scheduler_facts(scheduler, job)).words
    until_reason(scheduler, long, "Partition")
    job = scheduler.job(long)
    assert job is not None
    found = explain(job, read_scheduler_facts(scheduler, job))
    assert "asks for 10 min, and the limit of partition short is 2 min" in found.words


def test_priority_counts_the_jobs_before_it(scheduler: Scheduler, tmp_path: Path) -> None:
    until_state(scheduler, submit(scheduler, tmp_path, "--nodes=4", "--exclusive"), "RUNNING")
    for _ in range(2):
        submit(scheduler, tmp_path, "--nodes=4", "--exclusive")
    last = submit(scheduler, tmp_path, "--nodes=4", "--exclusive")
    until_reason(scheduler, last, "Priority")
    job = scheduler.job(last)
    assert job is not None and scheduler.jobs_ahead(job) == 2
    assert "(2 in this partition)" in explain(job, read_scheduler_facts(scheduler, job)).words


def test_what_cannot_be_read_is_no_evidence(scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise SlurmError("x")

    monkeypatch.setattr(scheduler, "_run", refuse)
    read = read_scheduler_facts(scheduler, SlurmJob("1", "PENDING", partition="low"))
    assert (read.partition, read.nodes, read.jobs_ahead, read.requeue_hold_seconds) == (None, None, None, None)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--partition=nope"], "partition"),
        (["--gpus-per-node=9"], "impossible"),
        (["--gpus-per-node=a100:1"], "impossible"),
        (["--gres=fpga:1"], "gpus"),
        (["--constraint=volta"], "constraint"),
        (["--mem=900G"], "memory"),
        (["--time=abc"], "time_limit"),
        (["--bogus"], "script"),
        (["--reservation=r"], "reservation"),
        (["--licenses=foo"], "license"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_refused_submissions(scheduler: Scheduler, tmp_path: Path, options: list[str], kind: str) -> None:
    with pytest.raises(SlurmError) as refused:
        submit(scheduler, tmp_path, *options)
    assert refused.value.kind == kind and refused.value.remedy
    assert refused.value.message.startswith("sbatch: ")


def test_a_script_can_be_tried_without_queueing_it(scheduler: Scheduler, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(LONG)
    assert "to start at" in scheduler.test_only(script, "--nodes=4")
    with pytest.raises(SlurmError):
        scheduler.test_only(script, "--partition=nope")
    assert subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout == ""


def test_another_users_job_cannot_be_cancelled(slurm_testbed: Testbed, scheduler: Scheduler, tmp_path: Path) -> None:
    job_id = submit(scheduler, tmp_path)
    line = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "scancel", job_id]
    done = subprocess.run(line, env=slurm_testbed.environment(), capture_output=True, text=True, check=False)
    assert refusal("scancel", done.stderr).kind == "not_yours"


def test_an_unknown_job_is_none(scheduler: Scheduler) -> None:
    assert scheduler.job("999999") is None
    scheduler.cancel("999999")
    with pytest.raises(SlurmError, match="Invalid job id"):
        scheduler.requeue("999999")


def test_a_job_that_the_controller_forgot_is_found_in_accounting(
    slurm_testbed: Testbed, scheduler: Scheduler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit(scheduler, tmp_path, text=QUICK)
    until_state(scheduler, job_id, "FAILED")
    monkeypatch.setattr(scheduler, "_run", lambda *_, **__: (_ for _ in ()).throw(SlurmError("x", kind="unknown_job")))
    job = scheduler.job(job_id)
    assert job is not None and (job.state, job.exit_code, job.nodes) == ("FAILED", 42, "n1")


def test_an_absent_controller_is_waited_for_then_named(slurm_testbed: Testbed, scheduler: Scheduler) -> None:
    slurm_testbed.stop_controller()
    try:
        with pytest.raises(SlurmError, match=r"Unable to contact slurm controller.*\(tried 2 times\)") as error:
            scheduler.partitions()
        assert error.value.kind == "unreachable" and "scontrol ping" in error.value.remedy
        back = threading.Timer(2, slurm_testbed.start_controller)
        back.start()
        assert Scheduler(retry_seconds=(1, 2, 4)).partitions()
        back.join()
    finally:
        if not slurm_testbed.is_up():
            slurm_testbed.start_controller()


def test_without_slurm_the_remedy_is_a_login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="SLURM is not here") as error:
        Scheduler().version()
    assert "login node" in error.value.remedy
