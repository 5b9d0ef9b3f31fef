"""What needs no GPU holds none: nodes that only trained are given back before the export, data come before all."""

from pathlib import Path

from slurm_runs import SlurmRun

from cluster.rundir import read_progress
from slurm.testbed import Testbed
from tests.cluster.outcomes.standin_run import until


def nodes_of(bed: Testbed, job: str) -> int:
    return int(bed.run("squeue", "--noheader", f"--jobs={job}", "--format=%D") or 0)


def test_the_other_nodes_are_given_back_while_the_first_one_exports(slurm_testbed: Testbed, tmp_path: Path) -> None:
    """The export fails once: the job's next life has all of its nodes again."""
    trainer = {"steps": 20, "export_seconds": 11, "export_exit": 7}
    run = SlurmRun(slurm_testbed, tmp_path / "export", trainer, nodes=3, slurm={"exclusive": True})
    job = run.submit()
    until(lambda: (run.dir / "export.pid").exists(), "the export to begin")
    assert nodes_of(slurm_testbed, job) == 3
    until(lambda: nodes_of(slurm_testbed, job) == 1, "the other nodes to be given back", 10)
    assert (run.dir / "export.pid").exists() and run.records()[-1]["outcome"] is None, "the export goes on"
    run.trainer(export_exit=0, export_seconds=0)
    record = run.closed(0)
    assert (record["outcome"], record["cause"]) == ("crashed", "export: exit code 7; export went wrong")
    assert len(record["nodes"]) == 3
    slurm_testbed.release(job)
    assert run.ended() == "finished"
    first, second = run.records()
    assert second["nodes"] == first["nodes"] and second["decision"]["action"] == "stop"
    assert (read_progress(run.dir) or {})["state"] == "finished"
    assert not list(run.dir.rglob("*_resize.*")) and not list(run.dir.rglob(".released-*"))
