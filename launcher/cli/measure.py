"""`tuneyard measure`: two steps of one rank of a plan, held against what was predicted for it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from launcher.calibration.measured import compared, measurement_of_plan
from launcher.calibration.store import append, store_path
from launcher.cli._options import job_argument, json_option
from launcher.cli._output import facts, make_console, print_json
from launcher.cli._phases import watched
from launcher.cli._planning import calibration_of, machine_for
from launcher.errors import JobError, MachineError, RunFailedError
from launcher.jobfile import LoadedJob, SettingError
from launcher.model.files import find_config
from launcher.planner.plan import Plan, make_plan
from launcher.runs.directory import write_run
from launcher.site.hardware import this_machine
from launcher.site.job import load_job
from launcher.trainer_process import require_trainer, run_trainer
from rundir.files import read_json
from rundir.quantities import count, size

COUNTED = "counted: the trainer's code on tensors that hold nothing, so that no GPU was needed and none was timed"
REAL = "measured: two steps on this machine's {device}, beside ranks that answer at once"


@click.command()
@job_argument
@click.option("--gpu", default=None, metavar="8xH100-80", help="Measure the plan for these GPUs.")
@click.option("--rank", type=click.IntRange(0), default=0, show_default=True, help="Which of the plan's ranks.")
@click.option(
    "--real/--counted",
    default=None,
    help="On this machine's device, or on tensors that hold nothing; by default by what is here.",
)
@click.option("--no-store", is_flag=True, help="Do not keep the result for later plans.")
@json_option
def measure(job_file: Path, gpu: str | None, rank: int, real: bool | None, no_store: bool, as_json: bool) -> None:
    """Run two steps of one rank of N under a fake process group, and compare them with the prediction.

    The trainer's own code shards and gathers as on all ranks. Without the plan's device here, memory is counted on
    tensors that hold nothing: a model of any size on any machine.
    """
    require_trainer()
    loaded = load_job(job_file)
    plan, run_root = _plan(loaded, gpu)
    found = _measured(loaded, plan, rank, counted=not _is_real(plan, gpu, real))
    one = measurement_of_plan(plan.as_json(), found, f"measure-{loaded.job.name}-{time.time():.0f}")
    kept = store_path(run_root)
    rows = compared(plan.as_json(), found)
    if as_json:
        print_json({**found, "compared": [row._asdict() for row in rows], "store": None if no_store else str(kept)})
    else:
        _print(found, plan, rows, make_console())
    if no_store:
        return
    append(kept, [one])  # after it was shown: minutes of measuring are not lost to a folder that cannot be written
    if not as_json:
        click.echo(f"kept in {kept}: later plans for this GPU, engine and method are corrected by it")


def _plan(loaded: LoadedJob, gpu: str | None) -> tuple[Plan, str | None]:
    try:
        job, machine, profile = machine_for(loaded, gpu)
        return make_plan(job, machine, profile, calibration=calibration_of(profile, None, corrected=False)), (
            profile.run_folder() if profile else None
        )
    except SettingError as error:
        raise loaded.located(error) from None


def _is_real(plan: Plan, gpu: str | None, asked: bool | None) -> bool:
    """Whether to run on a device: what is asked for, else whether the plan's own is here.

    Raises:
        MachineError: a GPU is asked for that is not here.
    """
    on_gpu = plan.trainer.execution.device == "cuda"
    here = not on_gpu or (gpu is None and this_machine().num_gpus > 0)
    if asked and on_gpu and not this_machine().num_gpus:
        raise MachineError("there is no GPU on this machine", "Leave out --real: memory is counted then.")
    return here if asked is None else asked


def _measured(loaded: LoadedJob, plan: Plan, rank: int, *, counted: bool) -> dict[str, Any]:
    """What the trainer found, in a process of its own.

    Raises:
        JobError: the model's config.json is not here.
        RunFailedError: the trainer gave no answer.
    """
    model = loaded.job.model
    if find_config(model.path, model.revision) is None:
        raise JobError(f"{model.path}: its config.json is not on this machine", "Download it, or name a folder.")
    world = plan.trainer.execution.world_size
    if rank >= world:
        raise JobError(f"--rank {rank}: the plan has {count(world, 'rank')}", f"Nearest: {world - 1}.")
    with tempfile.TemporaryDirectory(prefix="tuneyard-measure-") as folder:
        run_dir = Path(folder)
        write_run(run_dir, loaded.path.read_bytes(), plan.document())
        with watched(run_dir, make_console(stderr=True), "measuring"):
            run_trainer("measure", run_dir, "--rank", str(rank), *(["--counted"] * counted), on_line=lambda line: None)
        found = read_json(run_dir / "measured.json")
    if found is None:
        raise RunFailedError("the trainer left no measurement")
    return found


def _print(found: dict[str, Any], plan: Plan, rows: list[Any], console: Console) -> None:
    execution = plan.trainer.execution
    how = COUNTED if found["counted"] else REAL.format(device="GPU" if execution.device == "cuda" else "CPU")
    head = {
        "what": f"rank {found['rank']} of {found['world_size']}: {plan.choice.candidate.label}",
        "how": how,
    }
    console.print(facts(head), highlight=False)
    console.print(f"{'':<24}{'predicted':>12}{'measured':>12}{'apart':>9}", highlight=False)
    for row in rows:
        form = size if row.unit == "bytes" else "{:.3g} s".format
        apart = f"{100 * (row.predicted / row.measured - 1):+.1f} %" if row.measured else "-"
        console.print(f"{row.name:<24}{form(row.predicted):>12}{form(row.measured):>12}{apart:>9}", highlight=False)
