"""The testbed behaves like the SLURM that it is: runs, preempts, requeues, loses nodes, and leaves nothing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurm.testbed import Testbed, TestbedError
from slurm.testbed.host import wait_until

ROOT = Path(__file__).parents[3]
# A job that ends by itself in its grace period counts as completed: it must requeue itself to come back.
SLEEPER = """#!/bin/bash
trap 'echo USR1; scontrol requeue $SLURM_JOB_ID' USR1
echo "start ${SLURM_RESTART_COUNT:-0} on $(hostname) gpus $CUDA_VISIBLE_DEVICES"
sleep 300 & wait; wait
"""


def submit(bed: Testbed, folder: Path, *options: str, script: str = SLEEPER) -> str:
    path = folder / "job.sh"
    path.write_text(script)
    return bed.run("sbatch", "--parsable", f"--output={folder}/out", "--open-mode=append", *options, path)


def fact(bed: Testbed, job: str, name: str) -> str:
    words = bed.run("scontrol", "show", "job", job).split()
    return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))


def until(condition: Callable[[], bool], seconds: float = 45) -> None:
    wait_until(condition, seconds, "it did not happen in time")


def is_in(bed: Testbed, job: str, state: str) -> Callable[[], bool]:
    return lambda: fact(bed, job, "JobState") == state


def started(folder: Path, times: int = 1) -> Callable[[], bool]:
    return lambda: (folder / "out").exists() and (folder / "out").read_text().count("start") == times


def test_a_job_runs_on_every_node_under_the_nodes_own_name(slurm_testbed: Testbed, tmp_path: Path) -> None:
    script = "#!/bin/bash\nsrun --nodes=4 bash -c 'echo $(hostname) $(getent hosts n4 | cut -d\" \" -f1)'\n"
    submit(slurm_testbed, tmp_path, "--nodes=4", "--gpus-per-node=8", "--wait", script=script)
    assert sorted((tmp_path / "out").read_text().splitlines()) == [f"n{n} 127.0.0.1" for n in range(1, 5)]


def test_a_job_sees_its_gpus_only(slurm_testbed: Testbed, tmp_path: Path) -> None:
    script = "#!/bin/bash\necho $SLURM_GPUS_ON_NODE $CUDA_VISIBLE_DEVICES\n"
    submit(slurm_testbed, tmp_path, "--gpus-per-node=h100:3", "--wait", script=script)
    assert (tmp_path / "out").read_text() == "3 0,1,2\n"


def test_the_high_partition_preempts_and_the_job_comes_back(slurm_testbed: Testbed, tmp_path: Path) -> None:
    low = submit(slurm_testbed, tmp_path, "--partition=low", "--nodes=4", "--exclusive", "--signal=B:USR1@5")
    until(started(tmp_path))
    (tmp_path / "high").mkdir()
    high = submit(slurm_testbed, tmp_path / "high", "--partition=high", "--exclusive", script="#!/bin/bash\nsleep 1\n")
    until(is_in(slurm_testbed, low, "PENDING"))
    assert (fact(slurm_testbed, low, "Restarts"), fact(slurm_testbed, low, "Reason")) == ("1", "BeginTime")
    until(is_in(slurm_testbed, high, "COMPLETED"))
    assert slurm_testbed.release(low) == [low]
    until(started(tmp_path, times=2))
    lines = (tmp_path / "out").read_text().splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith("slurmstepd")] == [
        ["start", "0"],
        ["USR1"],
        ["start", "1"],
    ]


def test_a_preempted_job_without_requeue_is_gone(slurm_testbed: Testbed, tmp_path: Path) -> None:
    job = submit(slurm_testbed, tmp_path, "--partition=norequeue", "--nodes=4", "--exclusive")
    until(started(tmp_path))
    submit(slurm_testbed, tmp_path, "--partition=high", "--exclusive", script="#!/bin/bash\n:\n")
    until(is_in(slurm_testbed, job, "PREEMPTED"))


def test_a_node_that_is_set_down_requeues_its_job(slurm_testbed: Testbed, tmp_path: Path) -> None:
    job = submit(slurm_testbed, tmp_path, "--nodelist=n2")
    until(started(tmp_path))
    slurm_testbed.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    until(is_in(slurm_testbed, job, "PENDING"))
    assert fact(slurm_testbed, job, "Restarts") == "1"
    slurm_testbed.resume_node("n2")
    slurm_testbed.release(job)
    until(started(tmp_path, times=2))


def test_a_node_without_power_is_seen_and_its_job_requeued(slurm_testbed: Testbed, tmp_path: Path) -> None:
    job = submit(slurm_testbed, tmp_path, "--nodelist=n3")
    until(started(tmp_path))
    slurm_testbed.power_off("n3")
    assert not slurm_testbed.host("n3").processes()
    until(lambda: slurm_testbed.node_states()["n3"].startswith("down"), 60)
    assert fact(slurm_testbed, job, "Restarts") == "1"
    slurm_testbed.power_on("n3")
    assert slurm_testbed.node_states()["n3"] == "idle"


def test_a_job_outlives_the_controller(slurm_testbed: Testbed, tmp_path: Path) -> None:
    job = submit(slurm_testbed, tmp_path)
    until(started(tmp_path))
    slurm_testbed.stop_controller()
    assert not slurm_testbed.is_up()
    slurm_testbed.start_controller()
    assert fact(slurm_testbed, job, "JobState") == "RUNNING"


def test_a_requeued_job_starts_by_itself_after_the_hold(slurm_testbed: Testbed, tmp_path: Path) -> None:
    job = submit(slurm_testbed, tmp_path)
    until(started(tmp_path))
    slurm_testbed.run("scontrol", "requeue", job)
    begun = time.monotonic()
    until(started(tmp_path, times=2))
    assert time.monotonic() - begun > slurm_testbed.settings.requeue_hold_seconds - 2


def test_up_twice_and_a_killed_run_and_down_leave_nothing(tmp_path: Path) -> None:
    bed = Testbed(tmp_path / "bed")
    assert bed.up()
    submit(bed, tmp_path)
    until(started(tmp_path))
    assert not bed.up()
    hosts = [bed.host(name) for name in ("ctl", *bed.settings.node_names)]
    bed.stop_controller()  # as if most of it had been killed: a job's processes and some daemons are left
    assert bed.up()
    assert bed.run("squeue", "--noheader") == ""
    pids = [pid for host in hosts for pid in host.processes()]
    assert len(pids) >= 6
    assert bed.down()
    assert not bed.directory.exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}/root").exists()]
    assert not bed.down()


def test_a_folder_that_is_not_a_testbed_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TestbedError, match="not a testbed"):
        Testbed(tmp_path).up()
    assert (tmp_path / "thesis.tex").exists()


def test_run_gives_the_commands_exit_code_and_tears_down(tmp_path: Path) -> None:
    inside = 'sinfo --noheader --format=%D --partition=low && echo "$SLURM_CONF" && exit 7'
    line = [sys.executable, "-m", "slurm.testbed", "run", "--nodes", "2", "--", "sh", "-c", inside]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    nodes, conf = done.stdout.split()
    assert (done.returncode, nodes) == (7, "2")
    assert not Path(conf).exists()


def test_without_slurm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("slurm.testbed.host.PATH", str(tmp_path))
    with pytest.raises(TestbedError, match=r"apt-get install .*slurm-wlm munge"):
        Testbed(tmp_path / "bed").up()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TestbedError, match="needs root"):
        Testbed(tmp_path / "bed").up()
