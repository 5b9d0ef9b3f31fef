"""`python -m tests.cluster.kubernetes.testbed`: a private Kubernetes to try Tuneyard on, and for its tests."""

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

from tests.cluster.kubernetes.testbed import Settings, Testbed, TestbedError
from tests.cluster.kubernetes.tools import build

VERBS = {
    "up": "boot it; does nothing when it is up",
    "down": "end everything, and remove its folder",
    "status": "nodes and pods",
    "env": 'print lines for a shell: eval "$(python -m tests.cluster.kubernetes.testbed env)"',
    "run": "boot a new one, run a command in it, tear it down",
}
_DEFAULT = Path(tempfile.gettempdir()) / "tuneyard-kubernetes"


def main() -> int:
    """Carries out one command line and gives its exit code."""
    arguments = _parse()
    try:
        return _carry_out(arguments)
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.kubernetes.testbed", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        verb.add_argument("--dir", type=Path, metavar="DIR", help=f"the testbed's folder ({_DEFAULT})")
        if name in ("up", "run"):
            verb.add_argument("--nodes", type=int, default=2, choices=(1, 2, 3), help="nodes (2)")
            verb.add_argument("--jobset", action="store_true", help="install JobSet")
            verb.add_argument("--kueue", action="store_true", help="install Kueue")
        if name == "run":
            verb.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARGUMENT...")
    return parser.parse_args()


def _carry_out(arguments: argparse.Namespace) -> int:
    if arguments.verb == "run":
        return _run(arguments)
    bed = Testbed(arguments.dir or _DEFAULT, Settings(vars(arguments).get("nodes", 2)))
    if arguments.verb == "up":
        return _up(bed, arguments)
    if arguments.verb == "down":
        print("down" if bed.down() else "there is none")
        return 0
    if not bed.is_up():
        raise TestbedError(f"no testbed answers in {bed.directory}\npython -m tests.cluster.kubernetes.testbed up")
    if arguments.verb == "env":
        _print_environment(bed)
    else:
        print(bed.kubectl("get", "nodes"), bed.kubectl("get", "pods", "--all-namespaces", "-o", "wide"), sep="\n\n")
    return 0


def _up(bed: Testbed, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    booted = bed.up()
    _install(bed, arguments)
    print(f"up, {time.monotonic() - started:.1f} s" if booted else "already up", f"in {bed.directory}")
    _print_environment(bed)
    return 0


def _install(bed: Testbed, arguments: argparse.Namespace) -> None:
    if arguments.jobset:
        bed.install_jobset()
    if arguments.kueue:
        bed.install_kueue()


def _print_environment(bed: Testbed) -> None:
    print(f"export KUBECONFIG={shlex.quote(str(bed.kubeconfig))}")
    print(f"export PATH={shlex.quote(str(build.folder() / 'bin'))}:$PATH")


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise TestbedError("nothing to run: python -m tests.cluster.kubernetes.testbed run -- COMMAND")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the teardown below takes place
    folder = arguments.dir or _DEFAULT.with_name(f"{_DEFAULT.name}-{os.getpid()}")
    bed = Testbed(folder, Settings(arguments.nodes), owned=True)
    try:
        bed.up()
        _install(bed, arguments)
        return subprocess.run(command, env=bed.environment, check=False).returncode
    finally:
        bed.down()


if __name__ == "__main__":
    sys.exit(main())
