"""What needs no GPU holds none: nodes that only trained are given back before the export, data come before all."""

import json
from pathlib import Path
from typing import Any

from slurm_runs import SlurmRun

from rundir.plan import read_plan
from slurm.testbed import Testbed
from tests.cluster.outcomes.standin_run import until
from tests.support.documents import read_progress

PREPARE = {"where": "job", "partition": "short", "cpus": 3}


def preparing(bed: Testbed, folder: Path, trainer: dict[str, Any]) -> tuple[SlurmRun, str]:
    """A run whose data are tokenised in a job of its own; with the job that waits for it."""
    run = SlurmRun(bed, folder, trainer, nodes=1, slurm={"prepare": PREPARE})
    return run, run.submit()


def waits_for(bed: Testbed, job: str) -> str:
    return bed.run("squeue", "--noheader", f"--jobs={job}", "--format=%T %r")


def nodes_of(bed: Testbed, job: str) -> int:
    return int(bed.run("squeue", "--noheader", f"--jobs={job}", "--format=%D") or 0)


def test_the_other_nodes_are_given_back_while_the_first_one_exports(slurm_testbed: Testbed, tmp_path: Path) -> None:
    """The job is warned then: its next life has all of its nodes again."""
    trainer = {"steps": 20, "export_seconds": 60}
    run = SlurmRun(slurm_testbed, tmp_path / "export", trainer, nodes=3, slurm={"exclusive": True})
    job = run.submit()
    until(lambda: (run.dir / "export.pid").exists(), "the export to begin")
    until(lambda: nodes_of(slurm_testbed, job) == 1, "the other nodes to be given back", 10)
    assert run.records()[-1]["outcome"] is None, "the export goes on"
    run.trainer(export_seconds=0)
    slurm_testbed.run("scancel", "--batch", "--signal=USR1", job)
    record = run.closed(0)
    assert (record["outcome"], len(record["nodes"])) == ("preempted", 3)
    slurm_testbed.release(job)
    assert run.ended() == "finished"
    first, second = run.records()
    assert second["nodes"] == first["nodes"] and second["decision"]["action"] == "stop"
    assert (read_progress(run.dir) or {})["state"] == "finished"
    assert not list(run.dir.rglob("*_resize.*")) and not list(run.dir.rglob(".released-*"))


def test_the_run_waits_for_its_data_and_takes_no_node_meanwhile(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run, job = preparing(slurm_testbed, tmp_path / "data", {"steps": 20, "prepare_seconds": 4})
    first = json.loads((run.dir / "slurm.json").read_text())["prepare"]
    until(lambda: (run.dir / "prepare.pid").exists(), "the data to be tokenised")
    assert waits_for(slurm_testbed, job) == "PENDING Dependency"
    status = run.backend.status(run.dir)
    assert (status.state, status.outcome) == ("running", None)
    assert f"job {job} waits for its data: job {first} tokenises them on" in status.reason
    assert slurm_testbed.run("squeue", "--noheader", f"--jobs={first}", "--format=%P %C %D") == "short 3 1"
    run.trainer(prepare_seconds=0)
    assert run.ended() == "finished"
    (record,) = run.records()
    assert (record["attempt"], record["generation"]) == (0, f"{job}.0")
    (run.dir / "data").mkdir()
    (run.dir / "data" / "fingerprint.json").write_text("{}")
    assert run.backend.prepare_script(run.dir, read_plan(run.dir), 0.0) == ""


def test_wrong_data_end_the_run_before_a_gpu_is_taken(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run, job = preparing(slurm_testbed, tmp_path / "wrong", {"prepare_exit": 2})
    assert run.ended() == "fatal"
    (record,) = run.records()
    assert (record["outcome"], record["decision"]["action"]) == ("fatal", "stop")
    assert "prepare went wrong" in record["cause"] and list(record["exit_codes"]) == ["prepare"]
    assert slurm_testbed.run("squeue", "--noheader") == "", "nothing waits for ever"
    assert not list((run.dir / "logs").glob(f"slurm-{job}.log")), "the run's own job never began"


def test_a_run_is_cancelled_while_its_data_are_tokenised(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run, _ = preparing(slurm_testbed, tmp_path / "cancelled", {"prepare_seconds": 60})
    until(lambda: (run.dir / "prepare.pid").exists(), "the data to be tokenised")
    run.backend.cancel(run.dir)
    assert run.ended() == "stopped"
    until(lambda: not slurm_testbed.run("squeue", "--noheader"), "both jobs to go", 20)
    pid = int((run.dir / "prepare.pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
