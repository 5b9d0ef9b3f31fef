"""`tuneyard resume`: the next attempt of a run that ended early."""

from __future__ import annotations

from pathlib import Path

import click

from cluster import Backend, backend
from launcher.cli.follow import follow
from launcher.cli.options import detach_option, json_option, quoted, run_argument, run_dir_of
from launcher.cli.output import print_json
from launcher.errors import EXIT_OK, JobError
from launcher.rundata import backend_name
from launcher.trainer_process import require_trainer


@click.command()
@run_argument
@detach_option
@json_option
def resume(run_name: str, runs_dir: Path, detach: bool, as_json: bool) -> int:
    """Go on with a run from its last checkpoint, as its next attempt."""
    run_dir = run_dir_of(run_name, runs_dir)
    where = backend(backend_name(run_dir))
    _refuse(run_dir, where)
    require_trainer()
    handle = where.submit(run_dir)
    if not detach:
        return follow(run_dir, as_json=as_json)
    if as_json:
        print_json({"run": str(run_dir), "backend": handle.backend, "id": handle.id})
    else:
        click.echo(
            f"run {run_dir}\nNext: tuneyard status {quoted(run_dir)}, or tuneyard logs {quoted(run_dir)} --follow"
        )
    return EXIT_OK


def _refuse(run_dir: Path, where: Backend) -> None:
    found = where.status(run_dir)
    if found.state in ("queued", "running"):
        raise JobError(f"{run_dir} is {found.state}", f"Watch it: tuneyard logs {quoted(run_dir)} --follow")
    if found.outcome == "finished":
        raise JobError(f"{run_dir} is finished", f"Its model is in {run_dir / 'model'}; submit the job to train again.")
