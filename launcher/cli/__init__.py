"""The `tuneyard` command. Each verb is a module that is imported only when it runs, so that help is fast."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from importlib import import_module

import click

from launcher import __version__
from launcher.errors import MachineError, SchedulerError
from launcher.interrupts import exit_code_of, exit_process, interruptible
from rundir.errors import EXIT_OK, TuneyardError

VERBS = {
    "init": "Write a commented job file to start from.",
    "schema": "Print the JSON Schema of the job file, or its table of settings.",
    "check": "Tokenise the data and print the preflight report; trains nothing.",
    "estimate": "Memory, speed, hours and cost of a fine-tune, without a job file.",
    "advise": "Whether and how to fine-tune: settings with their rules and sources.",
    "plan": "Print what would run, whether it fits, and why.",
    "calibration": "What earlier runs taught the plans: list, show, remove.",
    "measure": "Run two steps of one rank of a plan, against what was predicted for it.",
    "drill": "Rehearse a fault on a few steps of a job, and say what it costs.",
    "submit": "Plan a job, start it, and follow it.",
    "sweep": "Run a job once for every combination of settings, and compare.",
    "status": "Where a run is.",
    "logs": "Print a run's logs.",
    "stop": "Ask a run to save and leave at the next step.",
    "cancel": "End a run now.",
    "resume": "Go on with a run: after an early end, or further than planned.",
    "checkpoints": "List, verify and prune a run's checkpoints.",
    "list": "List the runs in a folder.",
    "fetch": "Bring a run's model to this machine.",
    "export": "Write a run's model in Hugging Face layout.",
    "evaluate": "Let a run's model answer prompts, and score the answers.",
    "report": "Write a run's report as one HTML file.",
    "doctor": "Check this machine, or a site profile against its site.",
}
"""Every verb and its line in the help; the verb's module and function are called the same."""

HIDDEN = ("place",)
"""Verbs for programs, not in the help."""

ATTRIBUTES = {"list": "list_"}
"""Function names of verbs whose name is taken by a Python builtin."""

STORAGE_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.ENAMETOOLONG,
)
"""Error numbers caused by the storage or by the path, not by a bug: they are reported without a traceback."""

EPILOG = (
    "Exit codes: 0 done; 2 the job file, the data or the arguments are wrong; 3 this machine lacks "
    "something; 4 the scheduler or the cluster; 5 the run ended badly; 6 the estimate does not fit; 75 the run was "
    "saved before its end, resume it; 130 Ctrl-C."
)


class LazyVerbs(click.Group):
    """A group that imports a verb's module only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a verb."""
        if cmd_name not in (*VERBS, *HIDDEN):
            return None
        command: click.Command = getattr(import_module(f"launcher.cli.{cmd_name}"), ATTRIBUTES.get(cmd_name, cmd_name))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve the verb; an unknown one is refused with the nearest name."""
        if args and args[0] not in (*VERBS, *HIDDEN) and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {near[0]}?" if near else " `tuneyard --help` lists the verbs."
            ctx.fail(f"no verb is called {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their help lines, without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=LazyVerbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tuneyard")
def tuneyard() -> None:
    """Size, launch and resume supervised fine-tunes of large language models."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; expected errors are printed without a traceback."""
    with interruptible():
        try:
            code = tuneyard.main(args=arguments, prog_name="tuneyard", standalone_mode=False)
        except (click.Abort, KeyboardInterrupt) as error:
            with suppress(OSError):  # the terminal may be gone
                click.echo("interrupted", err=True)
            return exit_code_of(error.__cause__ if isinstance(error, click.Abort) else error)
        except Exception as error:
            given = sys.argv[1:] if arguments is None else arguments
            if (exit_code := report_error(error, as_json="--json" in given)) is None:
                raise
            return exit_code
    return code if isinstance(code, int) else EXIT_OK


def report_error(error: Exception, *, as_json: bool) -> int | None:
    """Print an error on standard error, with `--json` also as JSON on standard output.

    Returns:
        The exit code; None for an unexpected exception, which is a bug and is not printed.
    """
    from cluster import ClusterError

    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        remedy = f"See: {context.command_path} --help" if context else ""
        error = TuneyardError(error.format_message(), remedy)
    elif isinstance(error, ClusterError):
        error = SchedulerError(error.message, error.remedy)
    elif isinstance(error, OSError) and error.errno in STORAGE_ERRORS and error.filename:
        error = MachineError(f"{error.filename}: {error.strerror}", "Correct the path, or mend the storage.")
    elif not isinstance(error, TuneyardError):
        return None
    click.echo(error.shown(), err=True)
    if as_json:
        import json

        found = {"message": error.message, "remedy": error.remedy, "exit_code": error.exit_code, **error.facts()}
        click.echo(json.dumps({"error": found}, indent=1, ensure_ascii=False))
    return error.exit_code


def main() -> None:
    """The entry point of the installed command."""
    exit_process(run())
