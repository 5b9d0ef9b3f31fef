"""The suite of outcomes on a real Kubernetes; and what only Kubernetes does to a run: drains, evictions, priority."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes_runs import PATIENCE_SECONDS, STANDIN, profile, use_cluster

from cluster import Handle
from cluster.kubernetes.backend import KubernetesBackend
from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.cluster.outcomes.place import Place
from tests.cluster.outcomes.standin_run import FOR_EVER, StandinRun
from tests.cluster.outcomes.suite import Outcomes, resumed_from

LABEL = "batch.kubernetes.io/job-completion-index"
_PERSON = 1000


class OwnBackend(KubernetesBackend):
    """Runs whose directories are the real ones: they belong to the pods' user, and hold a job file."""

    def submit(self, run_dir: Path) -> Handle:
        (run_dir / "job.yaml").write_text("name: outcomes\n")
        for path in (run_dir, *run_dir.rglob("*")):
            shutil.chown(path, _PERSON, _PERSON)
        return super().submit(run_dir)


class InNamespace:
    """A namespace of the test cluster, whose claim this machine sees, too."""

    comes_back = True
    patience_seconds = PATIENCE_SECONDS

    def __init__(self, namespace: Namespace, shared: Path, jobset: str) -> None:
        self.namespace, self.shared, self.jobset, self.backend = namespace, shared, jobset, OwnBackend()

    def launch(self, *, short: bool = False) -> dict[str, Any]:
        site = profile(self.namespace, memory_per_gpu="900Mi", jobset=self.jobset)
        site["runs"] |= {"local": str(self.shared)}
        site["environment"] = {"PYTHONPATH": f"{STANDIN}:/opt/tuneyard"}
        found: dict[str, Any] = {"backend": "kubernetes", "nodes": 2, "ranks_per_node": 1, "kubernetes": site}
        return found | ({"walltime_seconds": 60} if short else {})

    def take_away(self, run_dir: Path) -> None:
        """An eviction, as a drain or a higher priority makes them."""
        name = self.pod(run_dir, 1)["metadata"]["name"]
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{name}/eviction"
        wish = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        self.namespace.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(wish))

    def time_is_over(self, run_dir: Path) -> None:
        """The Job's own deadline."""

    def signal_rank(self, run_dir: Path, rank: int, number: signal.Signals) -> None:
        pid = (run_dir / f"rank{rank}.pid").read_text()
        command = ("python", "-c", f"import os; os.kill({pid}, {int(number)})")
        self.namespace.kubectl("exec", self.pod(run_dir, rank)["metadata"]["name"], "-c", "trainer", "--", *command)

    def end_by_hand(self, run_dir: Path) -> None:
        from tests.cluster.kubernetes.testbed.host import run

        release = json.loads((run_dir / "kubernetes.json").read_text())["release"]
        run("helm", "uninstall", release, f"--namespace={self.namespace.name}", env=self.namespace.cluster.environment)

    def pod(self, run_dir: Path, index: int) -> dict[str, Any]:
        release = json.loads((run_dir / "kubernetes.json").read_text())["release"]
        found = self.namespace.pods(f"app.kubernetes.io/instance={release},{LABEL}={index}")
        return next(one for one in found if "deletionTimestamp" not in one["metadata"])


@pytest.mark.testbed
class TestOutcomesOnKubernetes(Outcomes):
    jobset = "never"

    @pytest.fixture
    def tmp_path(self, namespace: Namespace) -> Path:
        """The claim itself: the suite's run directories are those of the pods."""
        assert isinstance(namespace.cluster, Testbed)
        return namespace.cluster.runs(namespace.name)

    @pytest.fixture
    def place(self, namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
        use_cluster(namespace, monkeypatch)
        yield InNamespace(namespace, tmp_path, self.jobset)

    def test_a_run_whose_time_is_over_goes_on(self, place: Place, tmp_path: Path) -> None:
        """A Job whose deadline has passed is over for Kubernetes: only a new submit goes on."""
        run = StandinRun(place.backend, tmp_path / "run-1a2b", FOR_EVER, place.launch(short=True))
        run.submit()
        run.trains(0, seconds=place.patience_seconds)
        assert run.ended(place.patience_seconds) == "walltime"
        (record,) = run.records()
        assert (record["outcome"], record["decision"]["action"]) == ("walltime", "restart")
        assert record["last_checkpoint_step"] == record["last_step"]
        run.submit()
        run.trains(1, seconds=place.patience_seconds)
        assert resumed_from(run) == record["last_step"]
        place.backend.cancel(run.dir)
