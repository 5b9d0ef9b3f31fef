"""This machine: what is installed, what it has."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cluster.submitting.installing import install_line
from launcher.doctor import Check, fail, ok, warn
from launcher.errors import MachineError
from launcher.site.hardware import this_machine
from rundir.quantities import GIB, count, gib

FREE_DISK_BYTES = 20 * GIB
LAUNCHING = ("click", "jinja2", "pydantic", "rich", "ruamel.yaml")
TRAINING = ("torch", "transformers", "datasets", "safetensors", "numpy", "deepspeed", "peft", "bitsandbytes")
PROGRAMS = {"slurm": ("sbatch", "scontrol"), "kubernetes": ("kubectl", "helm")}


def machine_checks(runs_dir: Path) -> Iterator[Check]:
    """Everything that can be told without starting anything."""
    version = platform.python_version()
    python = f"Python {version}"
    yield (
        ok("python", python) if sys.version_info >= (3, 11) else fail("python", python, "install Python 3.11 or newer")
    )
    yield _packages("launcher packages", LAUNCHING, install_line(""), needed=True)
    yield _packages("trainer packages", TRAINING, f"to train here: {install_line('train')}", needed=False)
    yield _packages("submitit", ("submitit",), f"to submit to SLURM: {install_line('slurm')}", needed=False)
    yield from _hardware()
    yield _compiler()
    yield disk(runs_dir)
    for name, programs in PROGRAMS.items():
        yield _programs(name, programs)


def disk(folder: Path) -> Check:
    """Whether the folder can be written to, and has room for a checkpoint of a small model."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    problem = write_problem(there)
    if problem:
        return fail("disk", f"{there} cannot be written: {problem}", "name another folder with --runs")
    free = shutil.disk_usage(there).free
    words = f"{gib(free, 0)} free in {there}"
    return ok("disk", words) if free >= FREE_DISK_BYTES else warn("disk", words, "free space, or name another folder")


def write_problem(folder: Path) -> str:
    """Why a file cannot be written there; empty when one could."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"tuneyard")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def version_of(package: str) -> str | None:
    """A package's version; None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages(name: str, packages: tuple[str, ...], remedy: str, *, needed: bool) -> Check:
    found = {package: version_of(package) for package in packages}
    missing = [package for package, version in found.items() if version is None]
    if missing:
        return (fail if needed else warn)(name, f"not installed: {', '.join(missing)}", remedy)
    return ok(name, ", ".join(f"{package} {version}" for package, version in found.items()))


def _hardware() -> Iterator[Check]:
    try:
        machine = this_machine()
    except MachineError as error:
        yield fail("gpus", error.message, error.remedy)
        return
    size = f"{count(machine.num_cores, 'core')}, {gib(machine.memory_bytes, 0)}"
    yield ok("cores and memory", size)
    if machine.num_gpus:
        gpu = f"{machine.num_gpus} x {machine.gpu_names[0]}, {gib(machine.gpu_memory_bytes, 0)} each"
        yield ok("gpus", gpu)
    else:
        yield warn("gpus", "none", "small models train on the CPU; `resources: {gpu: none}` says so")


def _compiler() -> Check:
    name = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if name:
        return ok("compiler", name)
    return warn(
        "compiler", "none", "offloaded optimizers are compiled when first used: apt-get install build-essential"
    )


def _programs(name: str, programs: tuple[str, ...]) -> Check:
    found = [program for program in programs if shutil.which(program)]
    if len(found) == len(programs):
        return ok(name, f"{', '.join(found)} found")
    missing = ", ".join(sorted(set(programs) - set(found)))
    return warn(name, f"no {missing}", f"needed only to submit to {name} from here")
