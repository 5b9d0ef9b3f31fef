"""Batch scripts of version 0.1 that are requeued after an upgrade still find the programs that they call."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
NAMES = {"task": "srun_entry", "after": "post_job", "cancelled": "cancelled_job", "preparing": "prepare_entry"}


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_an_old_script_runs_the_same_program(old: str, new: str) -> None:
    assert import_module(f"cluster.slurm.{old}").main is import_module(f"cluster.slurm.job.{new}").main


def test_the_scripts_of_today_call_what_there_is() -> None:
    texts = [path.read_text() for path in (ROOT / "cluster/slurm/submit").iterdir() if path.is_file()]
    called = {new for new in NAMES.values() for text in texts if f"cluster.slurm.job.{new}" in text}
    assert called == set(NAMES.values())


def test_the_programs_do_their_work_under_the_old_name(tmp_path: Path) -> None:
    """What an old script asks when its agents have gone: nothing has run, and no warning came, so the job leaves."""
    (tmp_path / "logs").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "TUNEYARD_SUBMITTED": "1.000"}
    line = [sys.executable, "-m", "cluster.slurm.after", str(tmp_path), "7.0", "none"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "leave 1\n"), done.stderr
