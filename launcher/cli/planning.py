"""Loading and planning, as `plan`, `check` and `submit` begin."""

from __future__ import annotations

from pathlib import Path

from launcher.elsewhere import machine_of
from launcher.hardware import this_machine
from launcher.jobfile import LoadedJob, SettingError, load_job
from launcher.plan import Plan, make_plan
from launcher.siteprofile import profile_of


def load_and_plan(job_file: Path) -> tuple[LoadedJob, Plan]:
    """A checked job and its plan for where its profile says; errors of the plan carry the line of their setting."""
    loaded = load_job(job_file)
    profile = profile_of(loaded)
    try:
        machine = machine_of(loaded.job, profile) if profile else this_machine()
        return loaded, make_plan(loaded.job, machine, profile)
    except SettingError as error:
        raise loaded.located(error) from None
