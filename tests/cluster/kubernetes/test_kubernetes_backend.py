"""`tuneyard` on a real Kubernetes: what is submitted, what is said about it, and what never leaves its place."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pods
import pytest
import yaml
from kubernetes_runs import ROOT, KubernetesRun, profile, tuneyard, until, use_cluster

from cluster import ClusterError
from cluster.kubernetes.client.api import Api
from cluster.kubernetes.client.helm import Helm
from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.cluster.outcomes.real_run import trains
from tests.support import tiny
from tests.support.documents import read_attempts, read_progress

JOB = """
name: tiny
model: {{path: /runs/in/model}}
data: {{train: [{{path: /runs/in/rows.jsonl}}], max_length: 512}}
training: {{max_steps: {steps}, learning_rate: 0.01, tokens_per_step: 2048, full_determinism: true}}
checkpoint: {{every_steps: 20}}
logging: {{every_seconds: 0}}
resources: {{gpu: none, cpu_ranks: 1, nodes: 2, engine: zero2, grace_seconds: 15}}
cluster: {{profile: ./site.yaml}}
"""
CANARY = "canary-9f2c71"


@pytest.fixture(autouse=True)
def reachable(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cluster(namespace, monkeypatch)


@pytest.fixture
def submitter(namespace: Namespace) -> Path:
    """The kubeconfig of a user who has helm/rbac.yaml's Role, and nothing more."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tuneyard-submitter"}}
    namespace.apply(account, *yaml.safe_load_all((ROOT / "helm" / "rbac.yaml").read_text()))
    return namespace.cluster.kubeconfig_for(f"{namespace.name}:tuneyard-submitter")


def make_job(namespace: Namespace, folder: Path, steps: int, **site: Any) -> None:
    """A job whose model and rows lie on the claim."""
    assert isinstance(namespace.cluster, Testbed)
    shared = namespace.cluster.runs(namespace.name) / "in"
    shared.mkdir(exist_ok=True)
    tiny.make_model(shared / "model")
    tiny.write_rows(shared / "rows.jsonl", 200)
    subprocess.run(["chmod", "-R", "a+rX", shared], check=True)
    (folder / "site.yaml").write_text(json.dumps(profile(namespace, **site)))
    (folder / "job.yaml").write_text(JOB.format(steps=steps))


@pytest.mark.testbed
def test_a_user_with_the_role_submits_watches_stops_resumes_and_reads_it_all(
    namespace: Namespace, tmp_path: Path, submitter: Path
) -> None:
    """Real ranks on two nodes, by the command line, with no right but the Role's; secrets are nowhere to be seen."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"token": CANARY}}
    namespace.apply(secret)
    make_job(namespace, tmp_path, 120, secrets={"HF_TOKEN": {"name": "hub", "key": "token"}})

    def verb(*arguments: Any) -> dict[str, Any]:
        done = tuneyard(namespace, *arguments, "--json", cwd=tmp_path, kubeconfig=submitter)
        assert done.returncode in (0, 75), done.stderr + done.stdout
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    checks = tuneyard(namespace, "doctor", "--profile", "./site.yaml", "--json", cwd=tmp_path, kubeconfig=submitter)
    assert json.loads(checks.stdout)["fit"], checks.stdout
    run = Path(verb("submit", "job.yaml", "--detach")["run"])
    remote = namespace.cluster.runs(namespace.name) / run.name  # type: ignore[attr-defined]
    trains(remote, 0)
    assert verb("status", run)["progress"]["state"] == "training"
    stopped = verb("stop", run, "--wait")
    assert stopped["outcome"] == "stopped"
    assert verb("resume", run)["outcome"] == "finished"

    first, last = read_attempts(run)
    assert (first["outcome"], last["outcome"]) == ("stopped", "finished")
    assert (last["first_step"], last["last_step"]) == (first["last_step"], 120)
    assert (read_progress(run) or {})["exactness"] == "bit-exact"
    logs = tuneyard(namespace, "logs", run, cwd=tmp_path, kubeconfig=submitter).stdout
    assert "[rank-00000]" in logs and "finished" in logs
    assert len((run / "logs" / "metrics.jsonl").read_text().splitlines()) >= 120
    other_rank = tuneyard(namespace, "logs", run, "--rank", "1", cwd=tmp_path, kubeconfig=submitter)
    assert other_rank.stdout.strip(), other_rank.stderr
    assert verb("list")[0]["outcome"] == "finished"
    assert verb("resume", run, "--max-steps", 130)["outcome"] == "finished"
    assert read_attempts(run)[-1]["last_step"] == 130
    assert (remote / "plan-000.json").is_file()
    assert verb("fetch", run)["model"] == str(run / "model")
    assert same_files(run / "model", remote / "model")
    shutil.rmtree(run / "model")
    assert Helm(namespace=namespace.name).uninstall(json.loads((run / "kubernetes.json").read_text())["release"])
    until(lambda: not namespace.pods(), "the end of the pods")
    verb("fetch", run)  # whatever became of its release, the claim has it
    assert same_files(run / "model", remote / "model")
    assert_nowhere(CANARY, namespace, tmp_path)


def same_files(here: Path, there: Path) -> bool:
    both = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (here, there)]
    return both[0] == both[1] != {}


@pytest.mark.testbed
def test_a_command_that_loses_the_api_server_says_so_in_words(namespace: Namespace) -> None:
    namespace.apply(pods.pod("talker", namespace.image, "sleep", "300"))
    until(lambda: namespace.get("pod", "talker")["status"]["phase"] == "Running", "the pod")
    container = namespace.get("pod", "talker")["spec"]["containers"][0]["name"]
    api = Api(namespace=namespace.name, retry_seconds=())
    bed = namespace.cluster
    assert isinstance(bed, Testbed)
    lost = threading.Timer(3.0, bed.stop_api_server)
    lost.start()
    try:
        with pytest.raises(ClusterError, match=r"exec in pod talker: the API server .*does not answer") as told:
            api.execute("talker", container, ["sh", "-c", "while :; do echo more; sleep 0.1; done"], 60.0)
    finally:
        lost.join()
        bed.start_api_server()
    assert "try again" in told.value.remedy


def assert_nowhere(secret: str, namespace: Namespace, folder: Path) -> None:
    """A secret's value is in the Secret that its owner made, and nowhere else."""
    kinds = "all,configmaps,secrets,events,serviceaccounts,networkpolicies,persistentvolumeclaims"
    for one in namespace.get(kinds)["items"]:
        if (one["kind"], one["metadata"]["name"]) != ("Secret", "hub"):
            assert secret not in json.dumps(one), one["metadata"]["name"]
            assert secret not in json.dumps(_unpacked(one))
    for pod in namespace.pods():
        assert secret not in namespace.kubectl("logs", pod["metadata"]["name"], "--all-containers")
    shared = namespace.cluster.runs(namespace.name)  # type: ignore[attr-defined]
    for root in (folder, shared):
        assert not [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def _unpacked(one: dict[str, Any]) -> list[str]:
    """What a Secret holds, Helm's releases unpacked."""
    import base64
    import gzip

    found = []
    for value in (one.get("data") or {}).values() if one["kind"] == "Secret" else ():
        data = base64.b64decode(value)
        if one["type"] == "helm.sh/release.v1":
            data = gzip.decompress(base64.b64decode(data))
        found.append(data.decode(errors="replace"))
    return found


def test_stop_cancel_resume_and_submit_twice(namespace: Namespace, tmp_path: Path) -> None:
    run = KubernetesRun(namespace, tmp_path / "verbs")
    assert run.backend.status(run.dir).state == "none"
    release = run.submit()
    with pytest.raises(ClusterError, match=f"is {release} already"):
        run.submit()
    run.trains(0)
    run.backend.stop(run.dir)
    assert run.ended() == "stopped"
    assert run.submit() == release
    run.trains(1)
    run.backend.cancel(run.dir)
    assert run.backend.status(run.dir).outcome == "stopped"
    assert run.records()[1]["cause"] == "tuneyard cancel"
    assert run.records()[1]["first_step"] == run.records()[0]["last_step"]
    assert nothing_is_left(namespace, release)


def nothing_is_left(namespace: Namespace, release: str) -> bool:
    label = f"app.kubernetes.io/instance={release}"
    found = namespace.get("all,configmaps,secrets,serviceaccounts,networkpolicies", f"--selector={label}")["items"]
    return not found and not namespace.get("secrets", "--selector=owner=helm")["items"]


def test_logs_are_followed_to_the_end(namespace: Namespace, tmp_path: Path) -> None:
    run = KubernetesRun(namespace, tmp_path / "followed", {"steps": 200, "save_every": 50})
    run.submit()
    lines = list(run.backend.logs(run.dir, follow=True))
    assert run.backend.status(run.dir).outcome == "finished"
    assert [line for line in lines if line.startswith("[rank-00000]")]
    assert [line for line in lines if line.startswith("[export] export speaks")]
    assert len(lines) == len(list(run.backend.logs(run.dir)))


@pytest.mark.testbed
def test_an_api_server_that_restarts_does_not_end_a_watch(namespace: Namespace, tmp_path: Path) -> None:
    run = KubernetesRun(namespace, tmp_path / "restarted", {"steps": 1500, "save_every": 50})
    run.submit()
    run.trains(0)
    assert isinstance(namespace.cluster, Testbed)
    namespace.cluster.stop_api_server()
    away = run.backend.status(run.dir)
    time.sleep(3)
    namespace.cluster.start_api_server()
    assert away.state in ("running", "unknown")
    assert run.ended() == "finished"
    assert [record["outcome"] for record in run.records()] == ["finished"]


QUOTA = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}}


def test_a_run_that_waits_says_why(namespace: Namespace, tmp_path: Path) -> None:
    """Every reason that can be made here, in the words that a user reads."""
    more = {
        "unschedulable": {"node_selector": {"rack": "nowhere"}},
        "image": {"image": "registry.example.com/none:1", "image_pull_policy": "Never"},
        "claim": {"volumes": [{"name": "data", "claim": "nowhere", "path": "/data", "read_only": True}]},
        "secret": {"secrets": {"TOKEN_OF": {"name": "nowhere", "key": "token"}}},
    }
    words = {
        "unschedulable": "waits until 2 fitting nodes are free",
        "image": "image registry.example.com/none:1 cannot be pulled (ErrImageNeverPull)",
        "claim": "claim nowhere is not there",
        "secret": 'secret "nowhere" not found',
    }
    for name, site in more.items():
        run = KubernetesRun(namespace, tmp_path / name, kubernetes=site)
        run.submit()
        run.waits_for(words[name])
        run.backend.cancel(run.dir)
        assert run.backend.status(run.dir).outcome == "stopped"
    namespace.apply(QUOTA)
    run = KubernetesRun(namespace, tmp_path / "quota")
    run.submit()
    run.waits_for("quota small of the namespace: a pod asks for pods=1, pods=1 are in use, and pods=1 are allowed")
    namespace.kubectl("delete", "resourcequota", "small")
    run.backend.cancel(run.dir)


@pytest.mark.testbed
def test_a_pod_that_stays_on_a_lost_node_is_said_to(namespace: Namespace, tmp_path: Path) -> None:
    run = KubernetesRun(namespace, tmp_path / "lost", kubernetes={"unreachable_seconds": 1}, silence_seconds=20)
    run.submit()
    run.trains(0)
    bed, node = namespace.cluster, run.pods()[1]["spec"]["nodeName"]
    assert isinstance(bed, Testbed)
    bed.kill_node(node)
    words = run.waits_for("stays Terminating until somebody says that it is gone")
    assert f"pod 1 on {node}" in words and "1 of 2 pods are there" in words
    bed.restart_node(node)
    run.trains(1)
    assert run.records()[0]["outcome"] in ("node_failure", "preempted")
    run.backend.cancel(run.dir)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"host_network": True}, "violates PodSecurity"),
    ({"priority_class": "nowhere"}, "no PriorityClass with name nowhere"),
    ({"namespace": "nowhere"}, "nowhere"),
    ({"context": "nowhere"}, "nowhere"),
    ({"helm": "/no/such/helm"}, "Helm is not here"),
    ({"shared_memory": "a lot"}, "sharedMemory"),
]


@pytest.mark.parametrize(("site", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_can_never_work_is_refused_before_anything_is_made(
    namespace: Namespace, tmp_path: Path, site: dict[str, Any], words: str
) -> None:
    run = KubernetesRun(namespace, tmp_path / "refused", kubernetes=site)
    with pytest.raises(ClusterError, match=words) as refused:
        run.submit()
    assert refused.value.remedy
    assert run.backend.status(run.dir).state == "none"
    assert not (run.dir / "kubernetes.json").exists()
    assert nothing_is_left(namespace, "refused")


def test_an_interrupted_submit_leaves_nothing(
    namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C when Helm has just made the release: the last moment, and the worst."""
    run = KubernetesRun(namespace, tmp_path / "interrupted")
    install = Helm.install

    def interrupted(self: Helm, release: str, values: str) -> None:
        install(self, release, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(Helm, "install", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.submit()
    assert run.backend.status(run.dir).state == "none"
    until(lambda: nothing_is_left(namespace, "interrupted"), "nothing to be left")


def test_a_user_without_rights_is_told_which_one_and_where(namespace: Namespace, tmp_path: Path) -> None:
    namespace.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}})
    nobody = namespace.cluster.kubeconfig_for(f"{namespace.name}:nobody")
    os.environ["KUBECONFIG"] = str(nobody)
    run = KubernetesRun(namespace, tmp_path / "nobody")
    with pytest.raises(ClusterError, match=rf"you may not create \w+(\.\S+)? in namespace {namespace.name}") as refused:
        run.submit()
    assert "docs/kubernetes.md" in refused.value.remedy
    (tmp_path / "site.yaml").write_text(json.dumps(profile(namespace)))
    told = tuneyard(namespace, "doctor", "--profile", "./site.yaml", "--json", cwd=tmp_path, kubeconfig=nobody)
    assert told.returncode == 2
    rights = next(one for one in json.loads(told.stdout)["checks"] if one["name"] == "rights")
    assert rights["verdict"] == "fail" and "create jobs.batch" in rights["words"]
