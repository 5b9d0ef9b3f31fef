"""A release of the chart on a real cluster, whose pods hold a stand-in for the pod wrapper."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from chart_values import CHART, Helm, Object

from tests.cluster.kubernetes.testbed import Namespace

# A wrapper that writes down where it is, and leaves with the code that the run directory names, or with 75 when told.
_WRAPPER = """
import json, os, signal, socket, sys, time
from pathlib import Path
run_dir, index = Path(sys.argv[1]), os.environ["TUNEYARD_POD_INDEX"]
def leave(*_):
    with open(run_dir / "told", "a") as told:
        print(f"{index} {os.environ['TUNEYARD_POD_UID']} asked", file=told)
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
run_dir.mkdir(exist_ok=True)
facts = {"environment": dict(os.environ), "mounts": sorted(line.split()[1] for line in open("/proc/mounts"))}
(run_dir / "told").touch()
while True:
    try:
        facts["head"] = socket.gethostbyname(os.environ["TUNEYARD_HEAD"])
        break
    except OSError:
        time.sleep(0.2)
print("facts " + json.dumps(facts), flush=True)
while not (code := run_dir / f"exit-{index}").exists():
    time.sleep(0.1)
status = int(code.read_text())
code.unlink()
sys.exit(status)
"""
_FILES = {
    "launcher/__init__.py": "",
    "launcher/cli.py": "import sys; print('place', *sys.argv[1:], open('/etc/tuneyard/job.yaml').read())",
    "cluster/__init__.py": "",
    "cluster/kubernetes/__init__.py": "",
    "cluster/kubernetes/pod.py": _WRAPPER,
}
_WRITE = """
import json, os, sys
from pathlib import Path
for name, text in json.loads(sys.argv[1]).items():
    path = Path("/runs/standin") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.environ['TUNEYARD_POD_UID']}")
    unfinished.write_text(text)
    unfinished.rename(path)
"""
SECONDS = 90.0
TEST_POD = {"resources": {"cpu": 1, "memory": "2Gi"}}


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.3)
    return found


class Release:
    """One release in a test's namespace."""

    def __init__(self, helm: Helm, namespace: Namespace, name: str = "my-run") -> None:
        self.helm = Helm(helm.binary, helm.folder, namespace.cluster.environment)
        self.namespace, self.name = namespace, name

    def values(self, **more: Any) -> dict[str, Any]:
        """Small pods with the stand-in, and no wait that a test need not have."""
        small = {
            "image": self.namespace.image, "job": "name: my-run\n", "runs": {"claim": self.namespace.claim},
            "resources": {"gpus": 0, "cpu": "200m", "memory": "256Mi"}, "sharedMemory": "16Mi", "graceSeconds": 5,
            "test": TEST_POD, "terminationMarginSeconds": 15,
            "environment": {"PYTHONPATH": "/runs/standin"}, "imagePullPolicy": "IfNotPresent",
            "init": [{"name": "standin", "command": ["python", "-c", _WRITE, json.dumps(_FILES)]}],
        }  # fmt: skip
        environment = {**small["environment"], **more.pop("environment", {})}
        return {**small, "environment": environment, **more}

    def __call__(self, verb: str, **values: Any) -> str:
        """`install` or `upgrade` with these values."""
        given = self.helm.values(self.values(**values))
        return self.helm(verb, self.name, CHART, f"--namespace={self.namespace.name}", *given).stdout

    def do(self, verb: str, *arguments: str) -> str:
        """Any other verb of Helm on the release."""
        return self.helm(verb, self.name, *arguments, f"--namespace={self.namespace.name}").stdout

    def pods(self) -> list[Object]:
        """The run's pods that are not on their way out, by index."""
        found = self.namespace.pods(f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component=trainer")
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(alive, key=lambda pod: int(pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]))

    def running(self, count: int) -> list[Object]:
        """Waits for so many pods that run."""

        def all_run() -> list[Object]:
            found = [pod for pod in self.pods() if pod["status"]["phase"] == "Running"]
            return found if len(found) == count else []

        return until(all_run)

    def facts(self, pod: Object) -> dict[str, Any]:
        """What the stand-in in that pod has found."""
        name = pod["metadata"]["name"]

        def line() -> str:
            logs = self.namespace.kubectl("logs", name, "--container=trainer").splitlines()
            return next((line for line in logs if line.startswith("facts ")), "")

        return json.loads(until(line).removeprefix("facts "))

    def end(self, pod: Object, code: int) -> None:
        """Has that pod's wrapper leave with a code."""
        index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
        command = f"cd /runs/{self.name} && echo {code} > .exit-{index} && mv .exit-{index} exit-{index}"
        self.namespace.kubectl("exec", pod["metadata"]["name"], "--container=trainer", "--", "sh", "-c", command)

    def told(self, pod: Object) -> list[str]:
        """What the run directory says of all pods, read through one that runs."""
        name = pod["metadata"]["name"]
        words = self.namespace.kubectl("exec", name, "--container=trainer", "--", "cat", f"/runs/{self.name}/told")
        return words.splitlines()

    def jobs(self) -> list[Object]:
        """Its Jobs."""
        return self.namespace.get("jobs", f"--selector=app.kubernetes.io/instance={self.name}")["items"]

    def condition(self, kind: str = "jobs") -> str:
        """Complete or Failed, when the Job or JobSet has ended."""
        items = self.namespace.get(kind, f"--selector=app.kubernetes.io/instance={self.name}")["items"]
        true = {found["type"] for item in items for found in item.get("status", {}).get("conditions", [])
                if found["status"] == "True"}  # fmt: skip
        return next(iter(true & {"Complete", "Completed", "Failed"}), "")


KINDS = (
    "jobs,pods,services,endpointslices,configmaps,secrets,serviceaccounts,networkpolicies,deployments,"
    "persistentvolumeclaims"
)


def left(namespace: Namespace, kinds: str = KINDS) -> set[str]:
    """What lives in a namespace beside what Kubernetes and the test itself put there."""
    found = namespace.kubectl("get", kinds, "--output=name").splitlines()
    own = {"configmap/kube-root-ca.crt", "serviceaccount/default", f"persistentvolumeclaim/{namespace.claim}"}
    return set(found) - own
