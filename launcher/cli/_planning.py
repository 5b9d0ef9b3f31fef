"""Loading and planning, as `plan`, `check` and `submit` begin."""

from __future__ import annotations

from pathlib import Path

from cluster.submitting.site_profiles import SiteProfile
from launcher.calibration.correction import Calibration
from launcher.calibration.observed import all_measurements
from launcher.calibration.store import store_path
from launcher.dataset.token_counts import find_counted_size
from launcher.jobfile import JobFile, LoadedJob, SettingError
from launcher.planner.plan import Plan, make_plan
from launcher.planner.remote import machine_of
from launcher.runs.directory import list_runs
from launcher.site.hardware import Machine, this_machine
from launcher.site.job import load_job
from launcher.site.profile import profile_of


def load_and_plan(
    job_file: Path,
    gpu: str | None = None,
    *,
    files_here: bool = False,
    runs_dir: Path | None = None,
    corrected: bool = True,
) -> tuple[LoadedJob, Plan]:
    """A checked job and its plan; errors of the plan carry the line of their setting.

    Args:
        job_file: The job file.
        gpu: GPUs to plan for as if they were there; `None` plans for where the job's profile says.
        files_here: Leave the job's files where this machine sees them.
        runs_dir: Folder whose runs count as measurements, recorded or not.
        corrected: Whether measurements correct what is predicted.
    """
    loaded = load_job(job_file)
    return loaded, planned_from(loaded, gpu, files_here=files_here, runs_dir=runs_dir, corrected=corrected)


def planned_from(
    loaded: LoadedJob,
    gpu: str | None = None,
    *,
    files_here: bool = False,
    runs_dir: Path | None = None,
    corrected: bool = True,
) -> Plan:
    """The plan of a job that was loaded."""
    try:
        job, machine, profile = machine_for(loaded, gpu)
        calibration = calibration_of(profile, runs_dir, corrected)
        tokenised = find_counted_size(list_runs(runs_dir) if runs_dir else [], job)
        return make_plan(job, machine, profile, files_here=files_here, calibration=calibration, tokenised=tokenised)
    except SettingError as error:
        raise loaded.located(error) from None


def recounted(
    loaded: LoadedJob,
    run_dir: Path,
    *,
    files_here: bool = False,
    runs_dir: Path | None = None,
    corrected: bool = True,
) -> Plan:
    """The plan once more, now that a folder's data has been tokenised and its lengths are known."""
    try:
        job, machine, profile = machine_for(loaded, None)
        calibration = calibration_of(profile, runs_dir, corrected)
        return make_plan(
            job,
            machine,
            profile,
            files_here=files_here,
            calibration=calibration,
            tokenised=find_counted_size([run_dir], job),
        )
    except SettingError as error:
        raise loaded.located(error) from None


def machine_for(loaded: LoadedJob, gpu: str | None) -> tuple[JobFile, Machine, SiteProfile | None]:
    """The job, one node of where it is to run, and the profile; what is imagined has none."""
    if gpu is not None:
        from launcher.planner.ask.what_if import imagined

        return *imagined(loaded.job, gpu), None
    profile = profile_of(loaded)
    return loaded.job, machine_of(loaded.job, profile) if profile else this_machine(), profile


def calibration_of(profile: SiteProfile | None, runs_dir: Path | None, corrected: bool) -> Calibration:
    """What corrects a plan: the cluster's store, and runs in a folder that nobody has recorded yet."""
    if not corrected:
        return Calibration()
    store = store_path(profile.run_folder() if profile else None)
    return Calibration(measurements=all_measurements(store, list_runs(runs_dir) if runs_dir else []))
