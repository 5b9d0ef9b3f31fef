"""Runs on the test cluster: the stand-in trainer for lives and deaths, real ranks for what they train."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.kubernetes.backend import KubernetesBackend
from tests.cluster.kubernetes.testbed import Namespace
from tests.support.documents import read_attempts, read_progress

ROOT = Path(__file__).parents[3]
STANDIN = "/opt/tuneyard/tests/process/cluster/standin"
FOR_EVER = {"steps": 10**6, "save_every": 5}
PATIENCE_SECONDS = 180.0


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Waits for a condition to hold, and gives what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)
    return value


def profile(namespace: Namespace, **more: Any) -> dict[str, Any]:
    """A site profile of the namespace, with pods that are small enough for the test cluster."""
    found = {"backend": "kubernetes", "namespace": namespace.name, "image": namespace.image}
    found |= {"runs": {"claim": namespace.claim, "path": "/runs"}, "cpus_per_gpu": 1, "memory_per_gpu": "1500Mi"}
    return found | {"shared_memory": "64Mi", "jobset": "never", "image_pull_policy": "IfNotPresent"} | more


class KubernetesRun:
    """One run of the stand-in in a namespace, with a copy of its run directory here."""

    def __init__(
        self, namespace: Namespace, folder: Path, trainer: dict[str, Any] | None = None, **launch: Any
    ) -> None:
        self.namespace, self.dir, self.backend = namespace, folder, KubernetesBackend()
        site = profile(namespace, cpus_per_gpu=None, memory_per_gpu="900Mi") | launch.pop("kubernetes", {})
        site = {name: value for name, value in site.items() if value is not None and name != "backend"}
        site["environment"] = {"PYTHONPATH": f"{STANDIN}:/opt/tuneyard", **site.get("environment", {})}
        facts = {"backend": "kubernetes", "nodes": 2, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1}
        facts |= {"grace_seconds": 10, "phases": ["prepare", "train", "export"]}
        facts |= {"restart": {"backoff_seconds": 0.2}, **launch, "kubernetes": site}
        (folder / "logs").mkdir(parents=True)
        (folder / "job.yaml").write_text(f"name: {folder.name}\n")
        settings = {"polite": True, **(trainer or FOR_EVER)}
        (folder / "plan.json").write_text(json.dumps({"launch": facts, "trainer": settings}))

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.dir / "kubernetes.json").read_text())
        return found

    def submit(self) -> str:
        return self.backend.submit(self.dir).id

    def ended(self, seconds: float = PATIENCE_SECONDS) -> str | None:
        """Waits for the end of the run, and gives its outcome."""
        status = self.backend.wait(self.dir, seconds)
        assert status.state == "ended", status
        return status.outcome

    def records(self) -> list[dict[str, Any]]:
        return read_attempts(self.dir)

    def waits_for(self, words: str, seconds: float = PATIENCE_SECONDS) -> str:
        """Waits until the run is queued for a reason in which the words are."""

        def reason() -> str:
            status = self.backend.status(self.dir)
            self.last = status
            return status.reason if status.state == "queued" and words in status.reason else ""

        try:
            found: str = until(reason, words, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.last}") from None
        return found

    def trains(self, attempt: int, steps: int = 10) -> dict[str, Any]:
        """Waits until an attempt has made some steps; gives its record."""

        def made() -> bool:
            self.backend.status(self.dir)
            progress = read_progress(self.dir) or {}
            if progress.get("attempt") != attempt:
                return False
            return progress["step"] >= steps + ((progress.get("resumed_from") or {}).get("step") or 0)

        until(made, f"steps of attempt {attempt}")
        return self.records()[attempt]

    def pods(self) -> list[dict[str, Any]]:
        """The run's own pods, the lowest post first."""
        found = self.namespace.pods(f"app.kubernetes.io/instance={self.state['release']}")
        label = "batch.kubernetes.io/job-completion-index"
        return sorted(
            (one for one in found if label in one["metadata"]["labels"]),
            key=lambda one: one["metadata"]["labels"][label],
        )


def tuneyard(
    namespace: Namespace, *arguments: Any, cwd: Path, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line, as a user has it; this test's cluster is in the environment."""
    command = [sys.executable, "-c", "from launcher.cli import main; main()", *map(str, arguments)]
    environment = namespace.cluster.environment | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
    environment |= {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=400, check=False)


def use_cluster(namespace: Namespace, monkeypatch: Any) -> None:
    """Lets this process's own backend reach the test cluster."""
    for name in ("KUBECONFIG", "PATH"):
        monkeypatch.setenv(name, namespace.cluster.environment[name])
    os.environ.pop("KUBERNETES_SERVICE_HOST", None)
