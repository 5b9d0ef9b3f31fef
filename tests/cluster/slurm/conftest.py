"""Gives the tests here a real SLURM: booted once for the session, cleared of jobs for every test."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.testbed import Testbed, TestbedError

PREFIX = "tuneyard-slurm-test-"


@pytest.fixture(scope="session")
def booted_testbed() -> Iterator[Testbed]:
    """The session's SLURM. A test wants `slurm_testbed`."""
    _clear_away_killed_sessions()
    bed = Testbed(Path(tempfile.gettempdir()) / f"{PREFIX}{os.getpid()}")
    try:
        bed.up()
    except TestbedError as error:
        if os.geteuid() != 0 and shutil.which("slurmctld") is None:
            pytest.skip(f"neither SLURM nor root on this machine: {error}")
        pytest.fail(str(error))
    yield bed
    bed.down()


@pytest.fixture
def slurm_testbed(booted_testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """A SLURM of four idle nodes without jobs; this process's environment points to it."""
    for name in os.environ.keys() - booted_testbed.environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(booted_testbed.conf))
    yield booted_testbed
    booted_testbed.reset()


def _clear_away_killed_sessions() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = re.fullmatch(rf"{PREFIX}(\d+)", folder.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            Testbed(folder).down()
