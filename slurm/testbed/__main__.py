"""`python -m slurm.testbed`: a private SLURM to try Tuneyard on, and for its tests."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slurm.testbed.bed import Testbed
from slurm.testbed.config import Settings
from slurm.testbed.host import TestbedError

VERBS = {
    "up": "boot it; does nothing when it is up",
    "down": "end everything, and remove its folder",
    "status": "what runs, and what SLURM says about nodes and jobs",
    "env": 'print the line for a shell: eval "$(python -m slurm.testbed env)"',
    "release": "let requeued jobs start now instead of some seconds later",
    "run": "boot a new one, run a command in it, tear it down",
}


def main() -> int:
    """Carries out one command line and gives its exit code."""
    arguments = _parse()
    try:
        return _carry_out(arguments)
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


def default_directory() -> Path:
    """Where the testbed of this user lives when no folder is named."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(base) / f"tuneyard-slurm-{os.getuid()}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m slurm.testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--dir", type=Path, metavar="DIR", help="the testbed's folder")
        if name in ("up", "run"):
            verb.add_argument("--nodes", type=int, default=4, metavar="N", help="node daemons (4)")
            verb.add_argument("--grace", type=int, default=20, metavar="S", help="seconds before preemption (20)")
            verb.add_argument("--accounting", action="store_true", help="accounts, QOS and limits; preemption by QOS")
        if name == "release":
            verb.add_argument("jobs", nargs="*", help="job numbers; all without one")
        if name == "run":
            verb.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARGUMENT...")
    return parser.parse_args()


def _carry_out(arguments: argparse.Namespace) -> int:
    if arguments.verb == "run":
        return _run(arguments)
    bed = Testbed(arguments.dir or default_directory(), _settings(arguments))
    if arguments.verb == "up":
        return _up(bed)
    if arguments.verb == "down":
        print("down" if bed.down() else "there is none")
        return 0
    if not bed.is_up():
        raise TestbedError(f"no testbed answers in {bed.directory}\npython -m slurm.testbed up")
    if arguments.verb == "env":
        print(f"export SLURM_CONF={shlex.quote(str(bed.conf))}")
    elif arguments.verb == "release":
        print(*bed.release(*arguments.jobs))
    else:
        print(bed.run("sinfo"), bed.run("squeue", "--states=all"), sep="\n\n")
    return 0


def _up(bed: Testbed) -> int:
    started = time.monotonic()
    booted = bed.up()
    print(f"up, {time.monotonic() - started:.1f} s" if booted else "already up", f"in {bed.directory}")
    print(f"export SLURM_CONF={shlex.quote(str(bed.conf))}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise TestbedError("nothing to run: python -m slurm.testbed run -- COMMAND")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the teardown below takes place
    base = arguments.dir or Path(tempfile.gettempdir()) / f"tuneyard-slurm-{os.getuid()}-{os.getpid()}"
    bed = Testbed(base, _settings(arguments))
    try:
        bed.up()
        return subprocess.run(command, env=bed.environment(), check=False).returncode
    finally:
        bed.down()


def _settings(arguments: argparse.Namespace) -> Settings:
    chosen = vars(arguments)
    accounting = chosen.get("accounting", False)
    return Settings(chosen.get("nodes") or 4, grace_seconds=chosen.get("grace") or 20, accounting=accounting)


if __name__ == "__main__":
    sys.exit(main())
