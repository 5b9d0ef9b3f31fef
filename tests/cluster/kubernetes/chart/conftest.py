"""Gives the tests here Helm. Only those that ask for a cluster need more than its binary."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from chart_values import Helm

from tests.cluster.kubernetes.tools import build


@pytest.fixture(scope="session")
def helm_binary() -> Path:
    """TUNEYARD_HELM, or the one of `make kubernetes-tools`, or whichever is installed."""
    given = os.environ.get("TUNEYARD_HELM")
    candidates = [given] if given else [str(build.folder() / "bin" / "helm"), "helm"]
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        pytest.skip("no Helm: neither `make kubernetes-tools` nor TUNEYARD_HELM nor PATH has one")
    return Path(found)


@pytest.fixture(scope="session")
def helm(helm_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """Helm with folders of its own."""
    yield Helm(helm_binary, tmp_path_factory.mktemp("helm"))
