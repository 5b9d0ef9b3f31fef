"""Loading and planning, as `plan`, `check` and `submit` begin."""

from __future__ import annotations

from pathlib import Path

from cluster.profiles import SiteProfile
from launcher.elsewhere import machine_of
from launcher.hardware import Machine, this_machine
from launcher.jobfile import JobFile, LoadedJob, SettingError, load_job
from launcher.plan import Plan, make_plan
from launcher.siteprofile import profile_of


def load_and_plan(job_file: Path, gpu: str | None = None, *, files_here: bool = False) -> tuple[LoadedJob, Plan]:
    """A checked job and its plan; errors of the plan carry the line of their setting.

    Args:
        job_file: The job file.
        gpu: GPUs to plan for as if they were there; `None` plans for where the job's profile says.
    """
    loaded = load_job(job_file)
    return loaded, planned_from(loaded, gpu, files_here=files_here)


def planned_from(loaded: LoadedJob, gpu: str | None = None, *, files_here: bool = False) -> Plan:
    """The plan of a job that was loaded."""
    try:
        job, machine, profile = machine_for(loaded, gpu)
        return make_plan(job, machine, profile, files_here=files_here)
    except SettingError as error:
        raise loaded.located(error) from None


def machine_for(loaded: LoadedJob, gpu: str | None) -> tuple[JobFile, Machine, SiteProfile | None]:
    """The job, one node of where it is to run, and the profile; what is imagined has none."""
    if gpu is not None:
        from launcher.whatif import imagined

        return *imagined(loaded.job, gpu), None
    profile = profile_of(loaded)
    return loaded.job, machine_of(loaded.job, profile) if profile else this_machine(), profile
