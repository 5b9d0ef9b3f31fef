"""Loading and planning, as `plan`, `check` and `submit` begin."""

from __future__ import annotations

from pathlib import Path

from launcher.hardware import this_machine
from launcher.jobfile import LoadedJob, SettingError, load_job
from launcher.plan import Plan, make_plan


def load_and_plan(job_file: Path) -> tuple[LoadedJob, Plan]:
    """A checked job and its plan for this machine; errors of the plan carry the line of their setting."""
    loaded = load_job(job_file)
    try:
        return loaded, make_plan(loaded.job, this_machine())
    except SettingError as error:
        raise loaded.located(error) from None
