"""The script of a job array: shared directives, and the run that each task becomes."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from test_slurm_script import JOB, NASTY, directives

from cluster.errors import ClusterError
from cluster.slurm.submit.batch_script import SbatchSettings, render
from cluster.slurm.submit.job_array import render_array


def scripts(folder: Path, count: int, **changes: object) -> tuple[list[Path], list[str]]:
    run_dirs = [folder / f"run-{number}" for number in range(count)]
    return run_dirs, [
        render(replace(JOB, run_dir=run_dir, **changes), SbatchSettings(partition="p")) for run_dir in run_dirs
    ]


def test_an_array_asks_once_for_what_all_its_runs_ask_for() -> None:
    run_dirs, made = scripts(Path("/runs"), 12)
    asked = directives(render_array(Path("/runs/lr-sweep"), run_dirs, made, 4))
    assert asked[:4] == [
        "job-name=lr-sweep",
        "output=/runs/lr-sweep/logs/slurm-%A_%a.log",
        "chdir=/runs/lr-sweep",
        "array=0-11%4",
    ]
    own = ("job-name", "output", "chdir")
    assert asked[4:] == [line for line in directives(made[0]) if line.partition("=")[0] not in own]
    assert "array=0-11" in directives(render_array(Path("/runs/lr-sweep"), run_dirs, made, None))


def test_tasks_that_differ_are_refused_with_what_differs() -> None:
    run_dirs, made = scripts(Path("/runs"), 2)
    made[1] = scripts(Path("/runs"), 2, walltime_seconds=999)[1][1]
    with pytest.raises(ClusterError, match=r"run-1 asks for other machines than run-0: .*time=0-00:16:39"):
        render_array(Path("/runs/s"), run_dirs, made, None)


@pytest.mark.parametrize("value", NASTY)
def test_a_task_becomes_its_run_wherever_that_lies(value: str, tmp_path: Path) -> None:
    folder = tmp_path / value.replace("/", "")[:100].replace("\\", "")
    run_dirs, made = scripts(folder, 2)
    for run_dir in run_dirs:
        (run_dir / "logs").mkdir(parents=True)
        (run_dir / "slurm.sh").write_text('echo "here $PWD $SLURM_ARRAY_TASK_ID"; printf %s "$$" >pid')
    script = tmp_path / "array.sh"
    script.write_text(render_array(folder / "sweep", run_dirs, made, None))
    if shutil.which("shellcheck"):
        line = ["shellcheck", "--severity=warning", script]
        assert subprocess.run(line, capture_output=True, text=True, check=False).stdout == ""
    environment = {"PATH": "/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1"}
    with subprocess.Popen(["bash", script], env=environment, cwd=tmp_path) as task:
        assert task.wait(30) == 0
    assert (run_dirs[1] / "logs" / "slurm-7_1.log").read_text() == f"here {run_dirs[1]} 1\n"
    assert (run_dirs[1] / "pid").read_text() == str(task.pid), "signals to the batch script reach the run's own"
    assert not (tmp_path / "pwned").exists()
