"""Sweeps as job arrays on the real controller: every task is a run of its own, whatever its number is."""

import json
from pathlib import Path
from typing import Any

import pytest
from slurm_runs import FOR_EVER, SlurmRun, make_model_and_rows, tuneyard, write_job, write_profile

from cluster import ClusterError
from cluster.slurm.backend import SlurmBackend
from cluster.slurm.submit.submission_record import job_ids
from slurm.testbed import Testbed
from tests.cluster.outcomes.real_run import closed
from tests.cluster.outcomes.standin_run import STANDIN, until


def raw(run: SlurmRun) -> str:
    """The number that SLURM gives the task beside its array's."""
    return str(run.records()[0]["generation"]).partition(".")[0]


def test_one_task_is_requeued_and_one_cancelled_and_the_others_notice_nothing(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    runs = [
        SlurmRun(slurm_testbed, tmp_path / f"run-{number}", FOR_EVER, nodes=1, phases=["train"]) for number in range(3)
    ]
    where = SlurmBackend()
    handles = where.submit_array(tmp_path / "sweep", [run.dir for run in runs])
    array = handles[0].id.partition("_")[0]
    assert [handle.id for handle in handles] == [f"{array}_{number}" for number in range(3)]
    assert where.status(runs[2].dir).state in ("queued", "running")
    with pytest.raises(ClusterError, match=f"is job {array}_1 already"):
        runs[1].submit()
    for run in runs:
        run.trains(0)
    assert [job_ids(run.dir) for run in runs] == [[handle.id] for handle in handles]
    # the last task to start has the array's own number: for SLURM, that number means every task
    (struck,) = [number for number, run in enumerate(runs) if raw(run) == array]
    cancelled, other = (number for number in range(3) if number != struck)
    slurm_testbed.run("scancel", "--batch", "--signal=USR1", handles[struck].id)
    assert runs[struck].closed(0)["outcome"] == "preempted"
    runs[struck].trains(1)
    assert [record["generation"] for record in runs[struck].records()] == [f"{array}.0", f"{array}.1"]
    where.cancel(runs[cancelled].dir)
    assert where.status(runs[cancelled].dir).outcome == "stopped"
    assert runs[cancelled].records()[0]["cause"] == "tuneyard cancel"
    assert (len(runs[other].records()), where.status(runs[other].dir).state) == (1, "running")
    assert "training" in where.status(runs[struck].dir).reason
    assert f"slurm-{handles[other].id}.log" in [path.name for path in (runs[other].dir / "logs").iterdir()]
    runs[cancelled].submit()  # alone, as a job of its own
    assert "_" not in job_ids(runs[cancelled].dir)[0]
    for run in runs:
        where.cancel(run.dir)
    assert slurm_testbed.run("squeue", "--noheader") == ""


def test_runs_that_need_other_machines_are_no_array(slurm_testbed: Testbed, tmp_path: Path) -> None:
    runs = [SlurmRun(slurm_testbed, tmp_path / f"run-{nodes}", nodes=nodes) for nodes in (1, 2)]
    with pytest.raises(ClusterError, match="run-2 asks for other machines than run-1: nodes=1, nodes=2"):
        SlurmBackend().submit_array(tmp_path / "sweep", [run.dir for run in runs])
    assert slurm_testbed.run("squeue", "--noheader") == ""


def swept(folder: Path, *arguments: Any) -> dict[str, Any]:
    done = tuneyard("sweep", *arguments, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sweep_from_the_command_line_to_its_table(slurm_testbed: Testbed, tmp_path: Path) -> None:
    make_model_and_rows(tmp_path)
    site = write_profile(tmp_path, "low", "low", more=f", environment: {{PYTHONPATH: {STANDIN}}}")
    write_job(tmp_path, "job", site, "nodes: 1, cpu_ranks: 1", checkpoint="keep: 2", steps=9)
    settings = ("job.yaml", "--set", "training.learning_rate=0.01,0.019", "--set", "training.max_steps=100000,50")
    dry = swept(tmp_path, *settings, "--max-parallel", 3, "--dry-run")
    assert "#SBATCH --array=0-3%3\n" in dry["script"] and not (tmp_path / "runs").exists()
    made = swept(tmp_path, *settings, "--max-parallel", 3, "--detach")
    assert [Path(run).name[:6] for run in made["runs"]] == [f"job-{number}-" for number in range(4)]

    def row(number: int) -> dict[str, Any]:
        return swept(tmp_path, "--status", "last")["runs"][number]

    closed(Path(made["runs"][3]), 0)  # it waits for another one's end
    until(lambda: row(3)["outcome"] == "finished", "the last of the four")
    found = swept(tmp_path, "--status", made["sweep"])
    assert [one["outcome"] for one in found["runs"]] == [None, "finished", None, "finished"]
    assert found["runs"][3]["settings"] == {"training.learning_rate": 0.019, "training.max_steps": 50}
    assert found["runs"][3]["eval_loss"] == pytest.approx(1.001)
    assert found["best"] == Path(made["runs"][3]).name
    assert "learning_rate: 0.019" in (Path(made["runs"][3]) / "job.yaml").read_text()
    listed = json.loads(tuneyard("list", "--json", cwd=tmp_path).stdout)
    assert sorted(one["state"] for one in listed) == ["ended", "ended", "running", "running"]
    ended = swept(tmp_path, "--cancel", "last")
    assert len(ended["cancelled"]) == 2
    outcomes = [one["outcome"] for one in swept(tmp_path, "--status", "last")["runs"]]
    assert outcomes == ["stopped", "finished", "stopped", "finished"]
    table = tuneyard("sweep", "--status", "last", cwd=tmp_path).stdout
    best = next(line for line in table.splitlines() if made["runs"][3].rpartition("/")[2] in line)
    assert table.splitlines()[0].split()[:2] == ["learning_rate", "max_steps"]
    assert best.split()[:3] == ["*", "0.019", "50"] and best.split()[-1] == "1.0010"
