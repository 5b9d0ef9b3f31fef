"""Gives the tests here a real SLURM: booted once for the session, cleared of jobs for every test."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.testbed import Settings, Testbed, TestbedError

PREFIX = "tuneyard-slurm-test-"


@pytest.fixture(scope="session")
def booted_testbed() -> Iterator[Testbed]:
    """The session's SLURM. A test wants `slurm_testbed`."""
    yield from _booted("", Settings())


@pytest.fixture(scope="module")
def booted_accounting() -> Iterator[Testbed]:
    """A SLURM with accounts, QOS and limits. A test wants `accounting_testbed`."""
    yield from _booted("a", Settings(accounting=True))


@pytest.fixture
def slurm_testbed(booted_testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A SLURM of four idle nodes without jobs; this process's environment points to it."""
    yield from _ready(booted_testbed, monkeypatch)


@pytest.fixture
def accounting_testbed(booted_accounting: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """The same with accounting; preemption is by QOS."""
    yield from _ready(booted_accounting, monkeypatch)


def _booted(suffix: str, settings: Settings) -> Iterator[Testbed]:
    _clear_away_killed_sessions()
    bed = Testbed(Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}{suffix}", settings)
    try:
        bed.up()
    except TestbedError as error:
        if os.geteuid() != 0 and shutil.which("slurmctld") is None:
            pytest.skip(f"neither SLURM nor root on this machine: {error}")
        pytest.fail(str(error))
    yield bed
    bed.down()


def _ready(bed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    for name in os.environ.keys() - bed.environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(bed.conf))
    yield bed
    bed.reset()


def _clear_away_killed_sessions() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = re.fullmatch(rf"{PREFIX}(\d+)a?", folder.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            Testbed(folder).down()
