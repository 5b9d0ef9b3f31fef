"""What the chart makes of many sets of values: valid for every Kubernetes, restricted, and what each value promises."""

import copy
import itertools
import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart_values import (
    CHART,
    NOT_RESTRICTED,
    RELEASE,
    VALUES,
    Helm,
    Object,
    environment,
    is_preparing,
    job_spec,
    one,
    own_workload,
    pods,
    trainer,
)

from tests.cluster.kubernetes.tools import build

KUBERNETES = ("1.28", "1.30", "1.33", "1.36", str(kubernetes_validate.latest_version()))
OVER, LEAVE = [2, 3, 4], [75]
"""Exit codes of the pod wrapper: the run is over (fatal, given up, stopped); this pod leaves."""


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_complain_about(helm: Helm, name: str) -> None:
    said = helm("lint", CHART, "--strict", *helm.values(VALUES[name])).stdout
    assert "[WARNING]" not in said and "[ERROR]" not in said


@pytest.mark.parametrize("name", VALUES)
def test_objects_are_valid_for_every_kubernetes(helm: Helm, name: str) -> None:
    for item in helm.render(VALUES[name]):
        for version in KUBERNETES if item["kind"] != "JobSet" else ():
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("name", [name for name in VALUES if name.startswith("jobset")])
def test_a_jobset_is_valid_for_its_definition_and_its_job_for_kubernetes(helm: Helm, name: str) -> None:
    found = one(helm.render(VALUES[name]), "JobSet")
    jsonschema.validate(found, _jobset_schema(), jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        wrong = {**found["spec"], "failurePolicy": {"maxRestart": 3}}
        jsonschema.validate({**found, "spec": wrong}, _jobset_schema(), jsonschema.Draft202012Validator)
    inner = found["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inner"}, **inner}
    for version in KUBERNETES:
        kubernetes_validate.validate(job, version, strict=True)


def _jobset_schema() -> Object:
    folder = build.folder() / "charts" / "jobset"
    if not folder.exists():
        pytest.skip("no definition of JobSet: `make kubernetes-tools` brings it")
    found = [yaml.safe_load(path.read_text()) for path in folder.rglob("*jobsets.yaml")]
    versions = next(item for item in found if item["kind"] == "CustomResourceDefinition")["spec"]["versions"]
    return _strict(versions[0]["schema"]["openAPIV3Schema"])


def _strict(schema: Any) -> Any:
    """The schema, refusing what it does not know, as the API server's field validation does."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _strict(value) for key, value in schema.items()}
    if isinstance(found.get("properties"), dict) and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


# What the restricted profile says (Kubernetes' Pod Security Standards), for pods on Linux.
_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def violations(pod: Object) -> list[str]:
    """Where a pod leaves the restricted profile."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    found += [f"volume {kind}" for volume in pod["volumes"] for kind in volume.keys() - {"name"} - _VOLUMES]
    context = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = {**context, **container.get("securityContext", {})}
        capabilities = own.get("capabilities", {})
        found += [
            f"{container['name']}: {what}"
            for what, bad in {
                "privileged": own.get("privileged"),
                "may gain privileges": own.get("allowPrivilegeEscalation") is not False,
                "may be root": own.get("runAsNonRoot") is not True or own.get("runAsUser") == 0,
                "seccomp": own.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
                "capabilities": capabilities.get("drop") != ["ALL"]
                or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"},
                "host port": any(port.get("hostPort") for port in container.get("ports", [])),
            }.items()
            if bad
        ]
    return found


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_is_restricted_and_has_no_token(helm: Helm, name: str) -> None:
    for who, pod in pods(helm.render(VALUES[name])):
        assert bool(violations(pod)) == (name in NOT_RESTRICTED and not who.endswith("-test")), violations(pod)
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_check_for_the_restricted_profile_can_fail(helm: Helm) -> None:
    pod = job_spec(helm.render({}))["template"]["spec"]
    for container, change in (("trainer", {"privileged": True}), ("place", {"allowPrivilegeEscalation": True})):
        worse = copy.deepcopy(pod)
        for item in worse["initContainers"] + worse["containers"]:
            if item["name"] == container:
                item["securityContext"].update(change)
        assert violations(worse)
    assert violations({**pod, "volumes": [{"name": "x", "hostPath": {"path": "/"}}]})
    assert violations({**pod, "securityContext": {}})


@pytest.mark.parametrize("name", VALUES)
def test_names_fit_and_objects_are_labelled(helm: Helm, name: str) -> None:
    objects = helm.render(VALUES[name])
    assert len({(item["kind"], item["metadata"]["name"]) for item in objects}) == len(objects)
    for item in objects:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["tuneyard.dev/run"] == VALUES[name].get("run", {}).get("name", RELEASE)
        assert all(len(value) <= 63 for value in labels.values())


@pytest.mark.parametrize("kind", ["job", "jobset"])
@pytest.mark.parametrize("nodes", [1, 10, 100, 1000, 9999])
def test_the_longest_release_name_leaves_pods_a_host_name(helm: Helm, kind: str, nodes: int) -> None:
    for length in range(41, 30, -1):
        release = "r" * length
        values = {"nodes": nodes, "workload": {"kind": kind}}
        if helm("template", release, CHART, *helm.values(values), check=False).returncode == 0:
            break
    objects = helm.render(values, release)
    workload = next(item["metadata"]["name"] for item in objects if item["kind"] in ("Job", "JobSet"))
    inner = f"{workload}-ranks-0" if kind == "jobset" else workload
    assert len(f"{inner}-{nodes - 1}-abcde") <= 63
    assert length in (38, 39, 40)
    assert "at most" in helm.refusal(values, "r" * (length + 1))


# What a Job and a JobSet may not change; the rest of a Job is set in place.
_MUTABLE = {"suspend", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"}


def fixed(objects: list[Object]) -> tuple[str, str]:
    """The workload's name, and what Kubernetes will not have changed under that name."""
    workload = own_workload(objects)
    spec = workload["spec"]
    if workload["kind"] == "Job":
        frozen: Any = {key: value for key, value in spec.items() if key not in _MUTABLE}
    else:
        frozen = spec["replicatedJobs"]
    queue = {key: value for key, value in workload["metadata"]["labels"].items() if key.startswith("kueue.")}
    return workload["metadata"]["name"], json.dumps([workload["kind"], frozen, queue], sort_keys=True)


def test_a_change_that_kubernetes_forbids_gives_the_workload_another_name(helm: Helm) -> None:
    # Once its data are there, a Job that waited for them is as one without `prepare`: its queue's label is set then.
    ready = {name: {key: value for key, value in values.items() if key != "prepare"} for name, values in VALUES.items()}
    found = {name: fixed(helm.render(values)) for name, values in ready.items()}
    assert {name: own_workload(helm.render(values))["metadata"]["name"] for name, values in VALUES.items()} == {
        name: workload for name, (workload, _) in found.items()
    }
    for one_of, other in itertools.combinations(found, 2):
        same_name, same = (left == right for left, right in zip(found[one_of], found[other], strict=True))
        assert same_name == same, (one_of, other)


@pytest.mark.parametrize(
    "values",
    [
        {"backoffLimit": 1},
        {"walltimeSeconds": 60},
        {"workload": {"ttlSecondsAfterFinished": 1}},
        {"tensorboard": {"enabled": True}},
        {"networkPolicy": {"hub": False}},
        {"test": {"timeoutSeconds": 1}},
    ],
    ids=str,
)
def test_a_change_beside_the_pods_leaves_a_run_alone(helm: Helm, values: dict[str, Any]) -> None:
    assert fixed(helm.render(values)) == fixed(helm.render({}))


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_exit_codes_mean_what_the_restart_policy_decided(helm: Helm, kind: str) -> None:
    objects = helm.render({"workload": {"kind": kind}, "backoffLimit": 5})
    rules = job_spec(objects)["podFailurePolicy"]["rules"]
    assert [_action(rules, container="trainer", code=code) for code in OVER] == ["FailJob"] * 3
    assert [_action(rules, container="trainer", code=code) for code in LEAVE] == ["Ignore"]
    assert _action(rules, container="place", code=2) == "FailJob"
    assert _action(rules, container="trainer", code=2, disrupted=True) == "FailJob"
    assert _action(rules, container="trainer", code=137, disrupted=True) == "Ignore"
    for container, code in (("trainer", 1), ("trainer", 127), ("trainer", 137), ("place", 1), ("place", 75)):
        assert _action(rules, container=container, code=code) == "Count"
    if kind == "job":
        assert job_spec(objects)["backoffLimit"] == 5
        return
    policy = one(objects, "JobSet")["spec"]["failurePolicy"]
    assert job_spec(objects)["backoffLimit"] == 0  # one pod that dies without a word restarts all, and is counted there
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (5, "BlockingRecreate")
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy", "DeadlineExceeded"])
    ]


def _action(rules: list[Object], *, container: str, code: int, disrupted: bool = False) -> str:
    """What Kubernetes does: the first rule that fits."""
    for rule in rules:
        codes = rule.get("onExitCodes", {})
        if codes.get("containerName") == container and code in codes["values"]:
            return rule["action"]
        if disrupted and any(found["type"] == "DisruptionTarget" for found in rule["onPodConditions"]):
            return rule["action"]
    return "Count"


def test_one_number_gives_the_grace_period(helm: Helm) -> None:
    pod = job_spec(helm.render({"graceSeconds": 200, "terminationMarginSeconds": 33}))["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 233
    assert "lifecycle" not in pod["containers"][0]  # SIGTERM reaches the wrapper at once


@pytest.mark.parametrize("kind", ["job", "jobset"])
def test_a_pod_knows_its_place(helm: Helm, kind: str) -> None:
    objects = helm.render({"workload": {"kind": kind}, "nodes": 3, "run": {"submitted": 1763750000}, "port": 23456})
    found = environment(trainer(objects))
    assert found["TUNEYARD_SCHEDULER"] == "kubernetes"
    assert (found["TUNEYARD_NODES_COUNT"], found["TUNEYARD_SUBMITTED"]) == ("3", "1763750000")
    assert (found["TUNEYARD_PORT"], found["TUNEYARD_POD_GPUS"]) == ("23456", "1")
    for name, path in {
        "TUNEYARD_POD_INDEX": "metadata.annotations['batch.kubernetes.io/job-completion-index']",
        "TUNEYARD_POD_UID": "metadata.uid",
        "TUNEYARD_POD_IP": "status.podIP",
        "TUNEYARD_POD_NAME": "metadata.name",
        "TUNEYARD_NODE_NAME": "spec.nodeName",
        "TUNEYARD_JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
    }.items():
        assert found[name] == {"fieldRef": {"fieldPath": path}}
    head = next(item["value"] for item in trainer(objects)["env"] if item["name"] == "TUNEYARD_HEAD")
    assert head == f"$(TUNEYARD_JOB_NAME)-0.{RELEASE}.training.svc"
    assert job_spec(objects)["template"]["spec"]["subdomain"] == one(objects, "Service", RELEASE)["metadata"]["name"]
    place = job_spec(objects)["template"]["spec"]["initContainers"][0]
    assert (place["env"], place["volumeMounts"]) == (trainer(objects)["env"], trainer(objects)["volumeMounts"])
    assert place["resources"] == trainer(objects)["resources"]  # it may have to plan on them


def test_a_first_submit_and_no_submit_differ(helm: Helm) -> None:
    assert "TUNEYARD_SUBMITTED" not in environment(trainer(helm.render({})))


def test_services_and_policies_select_pods_by_their_labels(helm: Helm) -> None:
    objects = helm.render({"tensorboard": {"enabled": True}})
    labels = {
        "trainer": job_spec(objects)["template"]["metadata"]["labels"],
        "tensorboard": one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"],
        "test": one(objects, "Pod")["metadata"]["labels"],
    }

    def selected(selector: Object) -> set[str]:
        matching = selector.get("matchLabels", selector if "matchExpressions" not in selector else {})
        one_of = {item["key"]: item["values"] for item in selector.get("matchExpressions", [])}
        return {
            who
            for who, own in labels.items()
            if matching.items() <= own.items() and all(own.get(key) in values for key, values in one_of.items())
        }

    assert selected(one(objects, "Service", RELEASE)["spec"]["selector"]) == {"trainer"}
    assert selected(one(objects, "Service", f"{RELEASE}-tensorboard")["spec"]["selector"]) == {"tensorboard"}
    policy = one(objects, "NetworkPolicy", RELEASE)["spec"]
    assert selected(policy["podSelector"]) == {"trainer", "test"}
    assert [selected(peer["podSelector"]) for rule in policy["ingress"] for peer in rule["from"]] == [
        {"trainer", "test"}
    ]
    assert selected(one(objects, "NetworkPolicy", f"{RELEASE}-tensorboard")["spec"]["podSelector"]) == {"tensorboard"}


def test_the_way_out_is_dns_the_run_and_what_values_allow(helm: Helm) -> None:
    def ports(values: dict[str, Any]) -> list[list[int]]:
        rules = one(helm.render(values), "NetworkPolicy", RELEASE)["spec"]["egress"]
        return [[port["port"] for port in rule.get("ports", [])] for rule in rules]

    assert ports({}) == [[], [53, 53], [443]]
    assert ports(VALUES["closed"]) == [[], [53, 53]]
    assert ports(VALUES["proxy"]) == [[], [53, 53], [3128]]
    assert not [item for item in helm.render(VALUES["host-network"]) if item["kind"] == "NetworkPolicy"]


def test_excluded_nodes_are_left_out_of_every_alternative(helm: Helm) -> None:
    def terms(name: str) -> list[Object]:
        affinity = job_spec(helm.render(VALUES[name]))["template"]["spec"]["affinity"]["nodeAffinity"]
        return affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]

    away = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["node-7"]}
    zone = {"key": "zone", "operator": "In", "values": ["a"]}
    found = terms("exclude-in-every-alternative")
    assert [term["matchExpressions"] for term in found] == [[zone, away], [away]]
    assert terms("placement") == [{"matchExpressions": [{**away, "values": ["node-7", "node-9.example.com"]}]}]
    assert "affinity" not in job_spec(helm.render({}))["template"]["spec"]


def test_kueue_reads_labels_of_the_workload_and_annotations_of_the_pod(helm: Helm) -> None:
    job = one(helm.render(VALUES["kueue"]), "Job")
    labels = {key: value for key, value in job["metadata"]["labels"].items() if key.startswith("kueue")}
    assert labels == {"kueue.x-k8s.io/queue-name": "team", "kueue.x-k8s.io/priority-class": "high"}
    for name, level in {"kueue-rack": "required", "jobset-kueue-block": "preferred"}.items():
        annotations = job_spec(helm.render(VALUES[name]))["template"]["metadata"]["annotations"]
        assert [key for key in annotations if "kueue" in key] == [f"kueue.x-k8s.io/podset-{level}-topology"]


def preparing(objects: list[Object]) -> Object:
    """The Job that tokenises."""
    return next(item for item in objects if is_preparing(item))


def test_what_tokenises_asks_for_no_gpu_and_is_placed_by_itself(helm: Helm) -> None:
    values = {**VALUES["prepare-elsewhere"], "nodeSelector": {"gpu": "h100"}, "secrets": VALUES["secrets"]["secrets"]}
    objects = helm.render(values)
    pod = preparing(objects)["spec"]["template"]["spec"]
    place, prepare = pod["initContainers"]
    assert place["resources"]["limits"] == prepare["resources"]["limits"] == {"cpu": "16", "memory": "64Gi"}
    assert (prepare["command"][-2:], pod["nodeSelector"]) == (["/runs/my-run", "16"], {"pool": "cpu"})
    assert pod["tolerations"] == [{"key": "cpu", "operator": "Exists"}] and pod["priorityClassName"] == "low"
    assert preparing(objects)["spec"]["activeDeadlineSeconds"] == 3600
    own = trainer(objects)
    assert (prepare["image"], prepare["env"][-1]) == (own["image"], own["env"][-1])
    assert {mount["name"] for mount in prepare["volumeMounts"]} == {mount["name"] for mount in own["volumeMounts"]}
    assert preparing(helm.render(VALUES["prepare"]))["spec"]["template"]["spec"].get("nodeSelector") is None


@pytest.mark.parametrize(("name", "resource"), [("prepare", "jobs"), ("prepare-jobset", "jobsets")])
def test_the_pod_that_tokenises_may_open_the_runs_own_workload_and_no_more(
    helm: Helm, name: str, resource: str
) -> None:
    objects = helm.render(VALUES[name])
    workload = own_workload(objects)
    assert workload["spec"]["suspend"] is True
    (rule,) = one(objects, "Role")["rules"]
    assert (rule["resources"], rule["resourceNames"]) == ([resource], [workload["metadata"]["name"]])
    assert rule["verbs"] == ["get", "patch"]
    pod = preparing(objects)["spec"]["template"]["spec"]
    binding = one(objects, "RoleBinding")
    assert [item["name"] for item in binding["subjects"]] == [pod["serviceAccountName"]]
    mounted = [
        item["name"]
        for item in [*pod["initContainers"], *pod["containers"]]
        if "api" in [mount["name"] for mount in item["volumeMounts"]]
    ]
    assert mounted == ["unsuspend"]
    assert pod["containers"][0]["command"][-2:] == ["training", workload["metadata"]["name"]]
    assert {item["kind"] for item in helm.render(VALUES["prepare-elsewhere"])}.isdisjoint({"Role", "RoleBinding"})


def test_a_run_holds_no_quota_of_kueue_before_its_data_are_there(helm: Helm) -> None:
    objects = helm.render(VALUES["prepare-kueue"])
    queue = "kueue.x-k8s.io/queue-name"
    assert queue not in own_workload(objects)["metadata"]["labels"]
    assert preparing(objects)["metadata"]["labels"][queue] == "cpus"
    assert preparing(objects)["spec"]["template"]["spec"]["containers"][0]["command"][-1] == "team"


def test_exit_codes_of_what_tokenises_mean_what_those_of_the_run_do(helm: Helm) -> None:
    rules = preparing(helm.render(VALUES["prepare"]))["spec"]["podFailurePolicy"]["rules"]
    assert [_action(rules, container="prepare", code=code) for code in OVER] == ["FailJob"] * 3
    assert [_action(rules, container="prepare", code=code) for code in (*LEAVE, 1)] == ["Ignore", "Count"]
    assert _action(rules, container="place", code=2) == _action(rules, container="unsuspend", code=2) == "FailJob"


def test_an_upgrade_never_suspends_a_run(helm: Helm) -> None:
    line = ["template", RELEASE, CHART, "--is-upgrade", *helm.values(VALUES["prepare"])]
    objects = [found for found in yaml.safe_load_all(helm(*line).stdout) if found]
    assert "suspend" not in own_workload(objects)["spec"]
    assert not [item for item in objects if is_preparing(item) or item["kind"] in ("Role", "RoleBinding")]


def test_what_tokenises_reaches_the_api_server_and_nobody_reaches_it(helm: Helm) -> None:
    policy = one(helm.render(VALUES["prepare-elsewhere"]), "NetworkPolicy", f"{RELEASE}-prepare")["spec"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "prepare"
    assert policy["ingress"] == []
    assert policy["egress"][1:] == [
        {"to": [{"ipBlock": {"cidr": "10.96.0.1/32"}}], "ports": [{"port": 443, "protocol": "TCP"}]}
    ]


def test_claims(helm: Helm) -> None:
    made = one(helm.render(VALUES["claim-made"]), "PersistentVolumeClaim")
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert (made["spec"]["storageClassName"], made["spec"]["accessModes"]) == ("nfs", ["ReadWriteMany"])
    given = helm.render(VALUES["claim"])
    assert not [item for item in given if item["kind"] == "PersistentVolumeClaim"]
    volumes = {item["name"]: item for item in job_spec(given)["template"]["spec"]["volumes"]}
    assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == "shared-runs"
    assert trainer(given)["command"][-1] == f"/shared/runs/{RELEASE}"


def test_devices_memory_and_volumes(helm: Helm) -> None:
    assert trainer(helm.render(VALUES["rdma"]))["resources"]["limits"] == {
        "cpu": "8", "memory": "32Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "8",
        "rdma/hca_shared_devices_a": "8", "hugepages-2Mi": "1Gi",
    }  # fmt: skip
    assert "nvidia.com/gpu" not in trainer(helm.render(VALUES["cpu-only"]))["resources"]["limits"]
    volumes = {item["name"]: item for item in job_spec(helm.render(VALUES["cpu-only"]))["template"]["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "256Mi"}
    mounts = {item["mountPath"]: item for item in trainer(helm.render(VALUES["volumes"]))["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True and mounts["/data"]["readOnly"] is False
    assert mounts["/data"]["subPath"] == "chat/2026"


def test_large_numbers_stay_numbers(helm: Helm) -> None:
    objects = helm.render({"resources": {"memory": 64000000000, "cpu": 0.5}, "walltimeSeconds": 31536000})
    assert trainer(objects)["resources"]["limits"]["memory"] == "64000000000"
    assert trainer(objects)["resources"]["limits"]["cpu"] == "0.5"
    assert job_spec(objects)["activeDeadlineSeconds"] == 31536000


def test_own_variables_replace_the_defaults_of_caches(helm: Helm) -> None:
    found = environment(trainer(helm.render(VALUES["environment"])))
    assert found["HF_HOME"] == "/models/hub" and found["HOME"] == "/cache"
    assert (found["OMP_NUM_THREADS"], found["HF_HUB_OFFLINE"]) == ("4", "true")
    assert (found["NCCL_SOCKET_IFNAME"], found["NCCL_IB_TIMEOUT"]) == ("eth0", "22")
    assert environment(trainer(helm.render({})))["HF_HOME"] == "/runs/.hub"


def test_the_notes_name_the_next_commands(helm: Helm) -> None:
    values = helm.values({"tensorboard": {"enabled": True}, "hostNetwork": True})
    said = helm("install", RELEASE, CHART, "--dry-run=client", "--namespace", "training", *values, check=False).stdout
    for words in (
        "kubectl -n training get",
        "logs -f",
        "port-forward service/my-run-tensorboard 6006",
        "uninstall my-run",
        "delete pvc my-run-runs",
        "leave the restricted Pod Security profile",
    ):
        assert words in said
