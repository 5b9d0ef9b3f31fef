"""The chart on a real cluster: all is admitted; install, test, upgrade, rollback and uninstall do what they say."""

import copy
import json
from typing import Any

import pytest
import yaml
from chart_releases import KINDS, TEST_POD, Release, left, until
from chart_values import NOT_RESTRICTED, VALUES, Helm, environment, pods
from test_chart_hostile import TEXTS

from tests.cluster.kubernetes.testbed import Namespace, Testbed, TestbedError


@pytest.fixture
def release(helm: Helm, namespace: Namespace) -> Release:
    return Release(helm, namespace)


@pytest.fixture
def jobset(kubernetes_testbed: Any) -> None:
    """JobSet's own controller, from its own chart."""
    if isinstance(kubernetes_testbed, Testbed):
        kubernetes_testbed.install_jobset()
    try:
        kubernetes_testbed.kubectl("get", "crd", "jobsets.jobset.x-k8s.io")
    except TestbedError:
        pytest.skip("this cluster has no JobSet")


def test_the_api_server_takes_every_set_of_values(helm: Helm, namespace: Namespace, jobset: None) -> None:
    """Server-side dry run; a warning, of which Pod Security gives some, fails it."""
    namespace.cluster.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/warn=restricted")
    for name, values in VALUES.items():
        objects = helm.render(values, namespace=namespace.name)
        said = _dry_run(namespace, objects)
        assert ("would violate PodSecurity" in said) == (name in NOT_RESTRICTED), (name, said)
        if name not in NOT_RESTRICTED:
            assert "arning" not in said and "rror" not in said, (name, said)


def _dry_run(namespace: Namespace, objects: list[dict[str, Any]]) -> str:
    """What the API server says of them, and of the pods that they would make."""
    objects = copy.deepcopy(objects)
    for name, spec in list(pods(objects)):
        # What the test's namespace does not have, and no other pod can be made with.
        for key in ("priorityClassName", "runtimeClassName", "serviceAccountName"):
            spec = {other: value for other, value in spec.items() if other != key}
        objects.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-pod"[-63:]}, "spec": spec})
    objects = [item for item in objects if not item["metadata"]["name"].endswith("-test")]
    text = yaml.safe_dump_all(objects)
    try:
        return namespace.kubectl("apply", "--dry-run=server", "--warnings-as-errors", "-f", "-", text=text)
    except TestbedError as error:
        return str(error)


def test_a_run_is_installed_tested_changed_rolled_back_and_removed(release: Release) -> None:
    said = release("install", nodes=2)
    assert "helm -n" in said and "Pod Security" not in said
    first = release.running(2)
    assert len({pod["spec"]["nodeName"] for pod in first}) == 2
    assert "Phase:" in release.do("test", "--logs", "--timeout=100s") and not _test_pods(release)

    release("upgrade", nodes=2, backoffLimit=9, tensorboard={"enabled": False}, networkPolicy={"hub": False})
    assert _uids(release.running(2)) == _uids(first)  # the run went on
    assert release.jobs()[0]["spec"]["backoffLimit"] == 9

    release("upgrade", nodes=2, environment={"ROUND": "2"})
    second = until(lambda: (new := release.running(2)) and _uids(new).isdisjoint(_uids(first)) and new)
    assert [release.facts(pod)["environment"]["ROUND"] for pod in second] == ["2", "2"]
    until(lambda: len(release.jobs()) == 1)
    until(lambda: {line.split()[1] for line in release.told(second[0])} == _uids(first))  # who was told to save

    release.do("rollback", "1")
    third = until(lambda: (new := release.running(2)) and _uids(new).isdisjoint(_uids(second)) and new)
    assert "ROUND" not in release.facts(third[0])["environment"]

    release.do("uninstall", "--cascade=foreground", "--wait", "--timeout=60s")
    assert not release.namespace.pods()  # also those that were saving
    until(lambda: not left(release.namespace))


def test_a_failing_test_says_why_and_leaves_nothing(release: Release) -> None:
    release("install", resources={"gpus": 64, "cpu": 1, "memory": "1Gi"}, test={"timeoutSeconds": 1, **TEST_POD})
    line = ["test", release.name, "--logs", "--timeout=100s", f"--namespace={release.namespace.name}"]
    done = release.helm(*line, check=False)
    assert done.returncode != 0
    assert "ok    torch: torch" in done.stdout and "BAD   pod 0:" in done.stdout and "is pod 0 pending?" in done.stdout
    release.do("uninstall")
    until(lambda: not left(release.namespace))


def _uids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def _test_pods(release: Release) -> list[dict[str, Any]]:
    return release.namespace.pods("app.kubernetes.io/component=test")


def test_pods_find_what_they_were_promised(release: Release) -> None:
    texts = {f"TEXT_{number}": text for number, text in enumerate(TEXTS.values())}
    release.namespace.kubectl("create", "secret", "generic", "hub", "--from-literal=token=canary-7d1f")
    secrets = {"HF_TOKEN": {"name": "hub", "key": "token"}}
    release(
        "install", nodes=2, environment=texts, secrets=secrets, run={"submitted": 1763750000}, scratch={"enabled": True}
    )
    both = release.running(2)
    facts = [release.facts(pod) for pod in both]
    for index, (pod, found) in enumerate(zip(both, facts, strict=True)):
        own = found["environment"]
        assert own["TUNEYARD_POD_INDEX"] == str(index)
        assert own["TUNEYARD_POD_UID"] == pod["metadata"]["uid"]
        assert own["TUNEYARD_POD_IP"] == pod["status"]["podIP"]
        assert own["TUNEYARD_NODE_NAME"] == pod["spec"]["nodeName"]
        assert own["TUNEYARD_SUBMITTED"] == "1763750000"
        assert own["HF_TOKEN"] == "canary-7d1f"
        assert {name: own[name] for name in texts} == texts
        assert not [name for name in own if name.endswith("_SERVICE_HOST") and not name.startswith("KUBERNETES")]
        assert found["head"] == both[0]["status"]["podIP"]
        assert {"/dev/shm", "/tmp", "/cache", "/runs", "/scratch", "/etc/tuneyard"} <= set(found["mounts"])
        assert not [path for path in found["mounts"] if "serviceaccount" in path]
        secret_free = json.dumps([pod, release.do("get", "all")])
        assert "canary-7d1f" not in secret_free


@pytest.mark.parametrize(
    ("code", "ends"), [(0, "Complete"), (2, "Failed"), (3, "Failed"), (4, "Failed"), (75, ""), (1, "Failed")]
)
def test_the_job_does_what_the_exit_code_says(release: Release, code: int, ends: str) -> None:
    release("install", backoffLimit=0)
    (pod,) = release.running(1)
    release.facts(pod)
    release.end(pod, code)
    if ends:
        assert until(release.condition) == ends
        reason = {0: "CompletionsReached", 1: "BackoffLimitExceeded"}.get(code, "PodFailurePolicy")
        assert reason in json.dumps(release.jobs()[0]["status"]["conditions"])
        return
    until(lambda: (new := release.running(1)) and _uids(new) != _uids([pod]))  # replaced, and not counted
    assert release.jobs()[0]["status"].get("failed", 0) == 0 or not release.condition()


def test_an_evicted_pod_is_replaced_and_its_peer_stays(release: Release) -> None:
    release("install", nodes=2, backoffLimit=0)
    first = release.running(2)
    name = first[1]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{release.namespace.name}/pods/{name}/eviction"
    release.namespace.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(eviction))
    second = until(lambda: (new := release.running(2)) and _uids(new) != _uids(first) and new)
    assert second[0]["metadata"]["uid"] == first[0]["metadata"]["uid"]
    assert not release.condition()


def test_the_claim_that_the_chart_makes_outlives_the_release(release: Release) -> None:
    made = f"persistentvolumeclaim/{release.name}-runs"
    for _ in range(2):  # the second time it is taken up again
        release("install", runs={"claim": "", "size": "1Gi"})
        assert made in left(release.namespace)
        release.do("uninstall")
        until(lambda: left(release.namespace) == {made})


def test_tensorboard_answers_under_its_service(release: Release) -> None:
    release("install", tensorboard={"enabled": True, "resources": {"cpu": 1, "memory": "1Gi"}})
    release.namespace.kubectl("rollout", "status", f"deployment/{release.name}-tensorboard", "--timeout=150s")
    (pod,) = release.running(1)
    ask = f"import urllib.request as r; print(r.urlopen('http://{release.name}-tensorboard:6006').status)"
    answer = release.namespace.kubectl(
        "exec", pod["metadata"]["name"], "--container=trainer", "--", "python", "-c", ask
    )
    assert answer == "200"


@pytest.mark.parametrize("code", [0, 2, 1])
def test_a_jobset_does_the_same(release: Release, jobset: None, code: int) -> None:
    release("install", nodes=2, workload={"kind": "jobset"}, backoffLimit=1)
    first = release.running(2)
    assert [release.facts(pod)["head"] for pod in first] == [first[0]["status"]["podIP"]] * 2
    assert "Succeeded" in release.do("test", "--timeout=100s")
    for pod in first if code == 0 else first[:1]:
        release.end(pod, code)
    if code == 1:  # a wrapper that died: all are made anew, once
        second = until(lambda: (new := release.running(2)) and _uids(new).isdisjoint(_uids(first)) and new)
        release.facts(second[0])
        release.end(second[0], code)
    assert until(lambda: release.condition("jobsets")) == ("Completed" if code == 0 else "Failed")
    release.do("uninstall")
    until(lambda: not left(release.namespace, f"{KINDS},jobsets"))


def test_dry_run_of_an_environment_has_what_the_pod_has(helm: Helm) -> None:
    """The reading of Kubernetes' own expansion that the other tests rely upon, in one place without a cluster."""
    objects = helm.render({"environment": {"A": "$(HOME)"}})
    assert environment(next(pods(objects))[1]["containers"][0])["A"] == "$(HOME)"
