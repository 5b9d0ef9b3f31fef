"""A Kubernetes profile against its cluster: what the API, its rights and its objects say. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from cluster.errors import ClusterError
from cluster.kubernetes.client.api import JOBSET, Api
from cluster.kubernetes.client.errors import ROLE, KubernetesError
from cluster.kubernetes.client.helm import Helm
from cluster.kubernetes.client.permissions import NEEDED, OPTIONAL
from cluster.kubernetes.names import release_name
from cluster.kubernetes.submit import release
from cluster.kubernetes.submit.profile import JOB, Profile
from cluster.kubernetes.submitted import Submitted
from launcher.doctor import Check, fail, not_read, ok, warn
from rundir.plan import LaunchSpec, Plan
from rundir.quantities import count

OLDEST = (1, 28)
LEVELS = "pod-security.kubernetes.io/enforce"
_RWX = "ReadWriteMany"
_PRODUCT = "nvidia.com/gpu.product"
_KUEUE = ("kueue.x-k8s.io", ("v1beta2", "v1beta1"))


def report(profile: Profile) -> Iterable[Check]:
    """Everything about a profile and its cluster.

    Raises:
        ClusterError: the API server does not answer, or there is no way to it.
    """
    api = release.api_of(profile.site())
    helm = release.helm_of(profile.site(), api.namespace)
    yield _version(api)
    yield _helm(helm)
    yield _namespace(profile, api)
    rights = _permissions(api)
    yield rights
    yield from _claims(profile, api)
    yield from _secrets(profile, api)
    yield from _nodes(profile, api.cluster("node"))
    yield _quota(api)
    yield from _extensions(profile, api)
    yield _probe(profile, api, helm)


def _version(api: Api) -> Check:
    words = api.version()
    numbers = re.match(r"v?(\d+)\.(\d+)", words)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        return warn("api server", words, f"tested from {OLDEST[0]}.{OLDEST[1]} on")
    return ok("api server", words)


def _helm(helm: Helm) -> Check:
    try:
        return ok("helm", ".".join(str(part) for part in helm.version()))
    except ClusterError as error:
        return fail("helm", error.message, error.remedy)


def _namespace(profile: Profile, api: Api) -> Check:
    """The namespace's Pod Security level, where one may see it."""
    found = api.cluster("namespace", api.namespace)
    if not found:
        return not_read("namespace", f"{api.namespace}: you may not see it, or it is not there")
    level = (found[0]["metadata"].get("labels") or {}).get(LEVELS, "")
    words = f"{api.namespace}, Pod Security {level or 'not enforced'}"
    if profile.host_network and level in ("restricted", "baseline"):
        return fail("namespace", f"{words}: it refuses pods on their node's network", "take `host_network` out")
    return ok("namespace", words)


def _permissions(api: Api) -> Check:
    missing = [str(one) for one in NEEDED if not api.may(one.verb, one.resource, one.group, one.subresource)]
    if missing:
        return fail("rights", f"you may not {'; '.join(missing)}", ROLE)
    less = [str(one) for one in OPTIONAL if not api.may(one.verb, one.resource, one.group, one.subresource)]
    if less:
        return warn("rights", f"enough to run; you may not {'; '.join(less)}", ROLE)
    return ok("rights", f"all of the Role, in {api.namespace}")


def _claims(profile: Profile, api: Api) -> Iterator[Check]:
    if not profile.runs.claim:
        yield warn(
            "runs claim", f"each run gets one of {profile.runs.size}", "a claim of all runs is easier to look into"
        )
    wanted = [("runs claim", profile.runs.claim, True)] if profile.runs.claim else []
    wanted += [(f"volume {one.name}", one.claim, not one.read_only) for one in profile.volumes]
    for name, claim, writable in wanted:
        yield _claim(name, claim, writable, api)


def _claim(name: str, claim: str, writable: bool, api: Api) -> Check:
    try:
        found = api.read("persistent_volume_claim", claim)
    except KubernetesError as error:
        return not_read(name, error.message)
    if found is None:
        return fail(name, f"no claim {claim} in {api.namespace}", "make it, or correct the profile")
    modes, phase = found["spec"].get("accessModes") or [], (found.get("status") or {}).get("phase", "")
    words = f"{claim}: {phase}, {', '.join(modes)}"
    if writable and _RWX not in modes:
        return fail(name, f"{words}: one node only can write to it", f"make a claim that is {_RWX}")
    return (
        ok(name, words) if phase == "Bound" else warn(name, words, "it is bound when the first pod wants it, or never")
    )


def _secrets(profile: Profile, api: Api) -> Iterator[Check]:
    """Whether the Secrets that are named are there, with the keys that are named. No value is looked at."""
    wanted = {reference.name: reference.key for reference in profile.secrets.values()}
    for name, key in [*wanted.items(), *((one, "") for one in profile.image_pull_secrets)]:
        try:
            found = api.read("secret", name)
        except KubernetesError as error:
            yield not_read(f"secret {name}", error.message)
            continue
        if found is None or (key and key not in (found.get("data") or {})):
            missing = "is not there" if found is None else f"has no key {key}"
            yield fail(
                f"secret {name}", missing, f"kubectl create secret generic {name} --from-file={key or 'KEY'}=FILE"
            )
        else:
            yield ok(f"secret {name}", f"has {key}" if key else "is there")


def _nodes(profile: Profile, nodes: list[dict[str, Any]] | None) -> Iterator[Check]:
    if nodes is None:
        yield not_read("gpus", "you may not see the nodes", "ask the site what its GPUs are called and labelled")
        yield not_read("image", profile.image, "`kubectl run` tells whether it can be pulled")
        return
    gpus = {one["metadata"]["name"]: _count(one, profile.gpu_resource) for one in nodes}
    with_gpus = [name for name, count in gpus.items() if count]
    if not with_gpus:
        yield warn("gpus", f"no node has {profile.gpu_resource}", "only runs without GPUs will start")
    else:
        yield ok("gpus", f"{sum(gpus.values())} x {profile.gpu_resource} on {count(len(with_gpus), 'node')}")
    for kind, labels in profile.gpu_types.items():
        fitting = [one for one in nodes if labels.items() <= (one["metadata"].get("labels") or {}).items()]
        words = f"{len(fitting)} nodes have its labels"
        yield ok(f"gpu {kind}", words) if fitting else fail(f"gpu {kind}", words, "correct `gpu_types`")
    most = max(gpus.values(), default=0)
    if profile.gpus_per_node and most and profile.gpus_per_node > most:
        yield fail("gpus per node", f"the profile says {profile.gpus_per_node}, nodes have {most}", f"set it to {most}")
    held = [
        one
        for one in nodes
        if any(profile.image in (image.get("names") or ()) for image in (one.get("status") or {}).get("images") or ())
    ]
    yield (
        ok("image", f"{len(held)} of {len(nodes)} nodes hold it already")
        if held
        else not_read("image", f"no node holds {profile.image} yet", "the first run tells whether it can be pulled")
    )


def _count(node: dict[str, Any], resource: str) -> int:
    text = str(((node.get("status") or {}).get("allocatable") or {}).get(resource, "0"))
    return int(text) if text.isdecimal() else 0


def _quota(api: Api) -> Check:
    try:
        found = api.listed("resource_quota")
    except KubernetesError as error:
        return not_read("quota", error.message)
    if not found:
        return ok("quota", "none in this namespace")
    words = []
    for one in found:
        status = one.get("status") or {}
        used = status.get("used") or {}
        limits = ", ".join(
            f"{name} {used.get(name, '?')} of {most}" for name, most in (status.get("hard") or {}).items()
        )
        words.append(f"{one['metadata']['name']}: {limits}")
    return ok("quota", "; ".join(words))


def _extensions(profile: Profile, api: Api) -> Iterator[Check]:
    there = api.serves(JOBSET, "jobsets")
    if profile.jobset == "always" and not there:
        yield fail("jobset", "not installed", "install it, or set `jobset: auto`")
    else:
        used = there and profile.jobset != "never"
        yield ok("jobset", "runs are JobSets" if used else "runs are plain Jobs")
    if not profile.kueue.queue:
        return
    group, versions = _KUEUE
    served = next((one for one in versions if api.serves((group, one), "localqueues")), "")
    names = (
        [one["metadata"]["name"] for one in api.listed_custom((group, served), "localqueues") or []] if served else []
    )
    if profile.kueue.queue in names:
        yield ok("kueue", f"queue {profile.kueue.queue}")
    else:
        words = f"no queue {profile.kueue.queue}" if served else "not installed"
        yield fail("kueue", words, f"correct `kueue.queue`; there is: {', '.join(names) or 'none'}")


def _probe(profile: Profile, api: Api, helm: Helm) -> Check:
    """What the API says to a run of one node, tried and not made."""
    name = "server-side dry run"
    given = Submitted(
        release=release_name("tuneyard-doctor"),
        namespace=api.namespace,
        context=profile.context,
        workload="job",
        submitted=0,
        path=f"{profile.runs.path}/tuneyard-doctor",
        mirrored=True,
    )
    launch = {
        "nodes": 1,
        "ranks_per_node": 1,
        "device": "cpu",
        "threads_per_rank": 1,
        "grace_seconds": 60,
        "phases": [],
    }
    plan = Plan(launch=LaunchSpec.from_json({**launch, "kubernetes": profile.site()}))
    try:
        workload, first = release.workload_kind(profile.site(), api), profile.prepare.place == JOB
        values = release.values_text(plan, given.on(workload), "name: tuneyard-doctor\n", prepares=first)
        release.refuse_early(api, helm, given.release, values)
    except ClusterError as error:
        return fail(name, error.message.replace("\n", "; "), error.remedy or "correct the profile")
    return ok(name, "the API takes every object of a run")


def draft(_: str | None = None) -> str:
    """A profile drafted from the cluster that the current context leads to."""
    api = Api()
    return "\n".join(_drafted(api)) + "\n"


def _drafted(api: Api) -> Iterator[str]:
    yield f"# Drafted from the cluster's own answers ({api.version()}). Check it with: tuneyard doctor --profile FILE"
    yield "backend: kubernetes"
    yield f"namespace: {api.namespace}"
    yield "image: registry.example.com/tuneyard:TAG   # your training image; docs/kubernetes.md tells how to build it"
    shared = [one for one in api.listed("persistent_volume_claim") if _RWX in (one["spec"].get("accessModes") or [])]
    names = [one["metadata"]["name"] for one in shared]
    if names:
        others = f"   # others: {', '.join(names[1:])}" if names[1:] else ""
        yield f"runs: {{claim: {names[0]}, path: /runs}}{others}"
    else:
        yield f"runs: {{claim: NAME, path: /runs}}   # there is no claim that is {_RWX}: make one"
    yield "# volumes: [{name: models, claim: models, path: /models}]"
    yield from _drafted_hardware(api.cluster("node"))
    yield "jobset: auto"
    yield "# secrets: {HF_TOKEN: {name: hub, key: token}}   # names only: the values stay in Secrets"


def _drafted_hardware(nodes: list[dict[str, Any]] | None) -> Iterator[str]:
    if nodes is None:
        yield "# the nodes may not be seen: ask the site for gpus_per_node and the labels of its GPUs"
        return
    resources = {name for one in nodes for name in _allocatable(one) if name.endswith("/gpu")}
    resource = min(resources, default="nvidia.com/gpu")
    most = max((_count(one, resource) for one in nodes), default=0)
    if resource != "nvidia.com/gpu":
        yield f"gpu_resource: {resource}"
    yield f"gpus_per_node: {most}" if most else "# no node has a GPU"
    products = {(one["metadata"].get("labels") or {}).get(_PRODUCT, "") for one in nodes} - {""}
    for product in sorted(products):
        yield f"gpu_types: {{NAME: {{{_PRODUCT}: {product}}}}}   # NAME as in resources.gpu, such as h100-80"
    cores = min((int(str(_allocatable(one).get("cpu", "0")).rstrip("m") or 0) for one in nodes), default=0)
    if most and cores:
        yield f"cpus_per_gpu: {max(1, cores // most)}"
    yield "memory_per_gpu: 64Gi   # of each GPU's share of a node; /dev/shm counts"


def _allocatable(node: dict[str, Any]) -> dict[str, Any]:
    return (node.get("status") or {}).get("allocatable") or {}
