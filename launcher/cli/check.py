"""`tuneyard check`: the preflight report of the data, before anything is asked of a GPU."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from launcher.cli._options import job_argument, json_option, quoted
from launcher.cli._output import make_console, print_json
from launcher.cli._planning import planned_from, recounted
from launcher.cli._preparing import prepare
from launcher.cli._show_plan import print_warnings, steps_text
from launcher.jobfile import JobFileError, LoadedJob, SettingError
from launcher.model.hub import require_hub_files
from launcher.planner.plan import Plan, trainer_json
from launcher.planner.settings.tokenise_config import counting_config
from launcher.site.job import load_job
from launcher.trainer_process import require_trainer
from rundir.errors import TuneyardError
from rundir.files import write_json
from rundir.paths import PLAN


@click.command()
@job_argument
@json_option
def check(job_file: Path, as_json: bool) -> None:
    """Tokenise the data and print the preflight report. Trains nothing; later plans know what it counted.

    Needs no plan: the data of a model that does not fit is looked at, too.
    """
    loaded = load_job(job_file)
    plan, why_not = _planned(loaded)
    require_trainer()
    console = make_console(stderr=as_json)
    trainer = plan.trainer if plan else counting_config(loaded.job)
    try:
        require_hub_files(trainer.model_dump(mode="json"), plan.launch if plan else {})
    except SettingError as error:
        raise loaded.located(error) from None
    with tempfile.TemporaryDirectory(prefix="tuneyard-check-") as scratch:
        run_dir = Path(scratch)
        write_json(run_dir / PLAN, {"trainer": trainer_json(trainer)})
        preflight = prepare(run_dir, console)
        plan = recounted(loaded, run_dir, files_here=True) if plan else None
    if as_json:
        print_json(preflight | _facts(plan, why_not))
        return
    if plan:
        console.print(f"steps: {steps_text(plan.steps, plan.trainer.training.num_train_epochs)}", highlight=False)
        print_warnings(plan, console)
        click.echo(f"Next: tuneyard submit {quoted(job_file)}")
    else:
        console.print(f"The data was read; there is no plan to run it: {why_not}", style="yellow", highlight=False)


def _planned(loaded: LoadedJob) -> tuple[Plan | None, str]:
    """The plan, or why there is none: a machine that lacks something does not keep the data from being read.

    Raises:
        JobFileError: the job file contradicts itself.
    """
    try:
        return planned_from(loaded, files_here=True), ""
    except JobFileError:
        raise
    except TuneyardError as error:
        return None, f"{error.message}. {error.remedy}".strip()


def _facts(plan: Plan | None, why_not: str) -> dict[str, Any]:
    """What stands beside the report of the data."""
    if plan is None:
        return {"plan": None, "why_no_plan": why_not}
    return {"steps": plan.steps.as_json(), "warnings": list(plan.warnings)}
