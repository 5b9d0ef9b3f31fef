"""Gives the tests here a real Kubernetes: booted once for the session, a fresh namespace for every test.

With TUNEYARD_TEST_KUBECONFIG it is a cluster of yours instead, with TUNEYARD_TEST_IMAGE as the training image (Python,
torch and this project in it) and TUNEYARD_TEST_STORAGE_CLASS for volumes that several nodes may write to. With
TUNEYARD_TESTBED it is the testbed in that folder, which stays up when it was.
"""

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.kubernetes.testbed import Cluster, Namespace, Testbed, TestbedError
from tests.cluster.kubernetes.testbed.host import UnsuitableError, require_machine

OWN_CLUSTER = os.environ.get("TUNEYARD_TEST_KUBECONFIG")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    using = [item for item in items if "kubernetes_testbed" in getattr(item, "fixturenames", ())]
    reason = why_not() if using else ""
    for item in using:
        item.add_marker(pytest.mark.kubernetes)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif OWN_CLUSTER and item.get_closest_marker("testbed"):
            item.add_marker(
                pytest.mark.skip(reason="not on a cluster of yours: it ends nodes or looks into the testbed")
            )


def why_not() -> str:
    """Why there is no Kubernetes for tests here; empty when there is."""
    if OWN_CLUSTER:
        return ""
    try:
        require_machine()
    except UnsuitableError as error:
        return f"no Kubernetes on this machine: {' | '.join(str(error).splitlines())}"
    return ""


@pytest.fixture(scope="session")
def kubernetes_testbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The session's cluster. A test that makes objects wants `namespace`."""
    if OWN_CLUSTER:
        image = os.environ.get("TUNEYARD_TEST_IMAGE") or pytest.fail("TUNEYARD_TEST_IMAGE names no image")
        yield Cluster(Path(OWN_CLUSTER), tmp_path_factory.mktemp("kubeconfigs"), image)
        return
    chosen = os.environ.get("TUNEYARD_TESTBED")
    bed = Testbed(Path(chosen or f"{tempfile.gettempdir()}/tuneyard-kubernetes-test-{os.getpid()}"), owned=not chosen)
    try:
        booted = bed.up()
    except TestbedError as error:
        pytest.fail(str(error))
    if booted:
        _UP.append(bed)
    yield bed
    _down()


_UP: list[Testbed] = []


def _down() -> None:
    while _UP:
        _UP.pop().down()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The cluster goes with the last test here, not with the session: idle, it still takes a tenth of a processor."""
    if nextitem is None or not nextitem.path.is_relative_to(Path(__file__).parent):
        _down()


@pytest.fixture
def namespace(kubernetes_testbed: Cluster) -> Iterator[Namespace]:
    """A fresh namespace under restricted Pod Security with the claim `runs`; nodes are all there."""
    if isinstance(kubernetes_testbed, Testbed):
        kubernetes_testbed.mend()
    place = Namespace(kubernetes_testbed, f"test-{uuid.uuid4().hex[:8]}")
    place.create()
    yield place
    if isinstance(kubernetes_testbed, Testbed):
        kubernetes_testbed.mend()
    place.delete()
