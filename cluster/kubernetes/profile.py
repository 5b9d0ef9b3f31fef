"""A Kubernetes site profile: what one cluster, or one way of using it, wants of every run. Checked one by one.

Everything in it becomes a value of the chart, so it is data to YAML and to Helm, never template text. Secrets
are named, never given: release values are kept in the cluster, and a plan is kept on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from cluster.profiles import Finding, Key, given, like, one_of, require_sound, settings, text, variable, variables

JOBSET = ("auto", "always", "never")
PULL_POLICIES = ("", "Always", "IfNotPresent", "Never")
TOPOLOGY = ("required", "preferred")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?")
_SECRET_KEY = re.compile(r"[-\w.]{1,253}")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kKMGTPE]i?)?")
_IMAGE = re.compile(r"[A-Za-z0-9][\w.:/@-]*")
_UNITS = {"": 1, "k": 1000, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS |= {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
_PLAIN = ("description", "context", "helm", "chart", "max_walltime", "network_annotation")
_OBJECTS = ("namespace", "priority_class", "service_account", "runtime_class", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Where run directories lie: a claim that all nodes can mount, and where it is mounted."""

    claim: str = ""
    size: str = ""
    """Without a claim: the chart makes one of this size for the run."""
    storage_class: str = ""
    path: str = "/runs"
    local: str = ""
    """The same folder on the submitting machine, where it is mounted there, too."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A claim with models or data."""

    name: str
    claim: str
    path: str
    sub_path: str = ""
    read_only: bool = True
    local: str = ""


@dataclass(frozen=True, kw_only=True)
class Kueue:
    """The queue that admits runs, where Kueue is installed."""

    queue: str = ""
    priority_class: str = ""
    topology: Mapping[str, str] = field(default_factory=dict)
    """`{required: LABEL}` or `{preferred: LABEL}`: how near to each other a run's nodes must be."""


@dataclass(frozen=True, kw_only=True)
class Rdma:
    """The extended resource of the network cards, and how many a pod gets."""

    resource: str = ""
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """What the site does to a pod before it takes the machine away."""

    grace_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Numbers that pods run as; those who own the files on the claims."""

    uid: int = 1000
    gid: int = 1000
    fs_group: int | None = None


_PARTS = {"runs": Runs, "kueue": Kueue, "rdma": Rdma, "preemption": Preemption, "identity": Identity}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One cluster, or one way of using it."""

    name: str
    backend: str = "kubernetes"
    description: str = ""
    context: str = ""
    """A context of the user's kubeconfig; empty takes the current one."""
    namespace: str = ""
    image: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: Sequence[str] = ()
    runs: Runs = field(default_factory=Runs)
    volumes: Sequence[Volume] = ()
    gpu_resource: str = "nvidia.com/gpu"
    gpu_types: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Our name of a GPU to the labels of its nodes."""
    gpus_per_node: int | None = None
    cpus_per_gpu: int | None = None
    memory_per_gpu: str = ""
    shared_memory: str = ""
    scratch: str = ""
    """Size of a node-local folder at /scratch; empty: none."""
    priority_class: str = ""
    kueue: Kueue = field(default_factory=Kueue)
    jobset: str = "auto"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    rdma: Rdma = field(default_factory=Rdma)
    host_network: bool = False
    network_annotation: str = ""
    network_policy: bool = True
    runtime_class: str = ""
    scheduler: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    nccl: Mapping[str, str] = field(default_factory=dict)
    """NCCL's settings without their prefix: {SOCKET_IFNAME: eth0}."""
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """A variable's name to the Secret and the key that hold its value; never the value."""
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    identity: Identity = field(default_factory=Identity)
    preemption: Preemption = field(default_factory=Preemption)
    unreachable_seconds: int = 30
    backoff_limit: int | None = None
    keep_seconds: int | None = None
    """How long the objects of a run that is over are kept; None: until somebody removes them."""
    tensorboard: bool = False
    max_walltime: str = ""
    helm: str = ""
    chart: str = ""

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Profile:
        """A profile out of plain values.

        Raises:
            ProfileError: with everything that is wrong with them.
        """
        values = settings(cls, name, data)
        for part, kind in _PARTS.items():
            if part in values:
                values[part] = kind(**given(values[part]))
        values["volumes"] = [Volume(**given(one)) for one in values.get("volumes") or ()]
        made = cls(name=name, **values)
        require_sound(made)
        return made

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong with the values."""
        yield from one_of(("backend",), self.backend, ("kubernetes",))
        for name in _PLAIN:
            yield from text((name,), getattr(self, name))
        for name in _OBJECTS:
            yield from like((name,), getattr(self, name), _DOMAIN, "a name as Kubernetes has them")
        if not self.image:
            yield Finding(("image",), "is needed", remedy="the address of an image with tuneyard in it")
        yield from like(("image",), self.image, _IMAGE, "an image's address, such as registry.example.com/tuneyard:1")
        yield from one_of(("image_pull_policy",), self.image_pull_policy, PULL_POLICIES)
        yield from one_of(("jobset",), self.jobset, JOBSET)
        yield from self._storage_findings()
        yield from self._hardware_findings()
        yield from self._environment_findings()
        for name, expected in (("unreachable_seconds", 0), ("backoff_limit", 0), ("keep_seconds", 0)):
            if (value := getattr(self, name)) is not None and value < expected:
                yield Finding((name,), f"must be at least {expected}", str(value))

    def run_folder(self) -> str:
        """The runs' folder on this machine, where it is mounted here, too."""
        return self.runs.local

    def host_bytes(self, num_ranks: int) -> int | None:
        """Main memory of a pod with so many ranks."""
        return num_ranks * quantity(self.memory_per_gpu) if self.memory_per_gpu else None

    def holds(self, path: str) -> bool:
        """Whether a volume is mounted there."""
        places: list[Runs | Volume] = [self.runs, *self.volumes]
        return any(_below(path, place.path) is not None for place in places)

    def there(self, path: str) -> str | None:
        """A path as the pods see it; None when no volume holds it. What is not absolute belongs to the hub."""
        if not path.startswith("/"):
            return path
        places: list[Runs | Volume] = [self.runs, *self.volumes]
        for place in places:
            if place.local and (inside := _below(path, place.local)) is not None:
                return str(PurePosixPath(place.path) / inside)
        return path if self.holds(path) else None

    def variables(self) -> dict[str, str]:
        """NCCL's settings with their prefix."""
        return {f"NCCL_{name.removeprefix('NCCL_')}": value for name, value in self.nccl.items()}

    def site(self, gpu: str = "", version: Sequence[int] = ()) -> dict[str, Any]:
        """What the backend is told, as a plan keeps it: `cluster.kubernetes.values` reads it."""
        names = [one.name for one in fields(self) if one.name not in ("name", "backend", "description", "gpu_types")]
        found = {name: _plain(getattr(self, name)) for name in names}
        found["node_selector"] = {**self.node_selector, **self.gpu_types.get(gpu, {})}
        return {name: value for name, value in found.items() if value not in ("", None, {}, [])}

    def _storage_findings(self) -> Iterator[Finding]:
        runs = self.runs
        if bool(runs.claim) == bool(runs.size):
            yield Finding(("runs",), "needs either a claim or a size", remedy="name a ReadWriteMany claim")
        yield from like(("runs", "size"), runs.size, _QUANTITY, "a size such as 500Gi")
        for name in ("claim", "storage_class"):
            yield from like(("runs", name), getattr(runs, name), _DOMAIN, "a name as Kubernetes has them")
        yield from _path(("runs", "path"), runs.path)
        yield from _path(("runs", "local"), runs.local)
        for number, one in enumerate(self.volumes):
            yield from like(("volumes", number, "name"), one.name, _LABEL, "lower-case letters, digits and dashes")
            yield from like(("volumes", number, "claim"), one.claim, _DOMAIN, "a name as Kubernetes has them")
            for name in ("path", "local"):
                yield from _path(("volumes", number, name), getattr(one, name))
            if one.sub_path.startswith("/") or ".." in PurePosixPath(one.sub_path).parts:
                yield Finding(("volumes", number, "sub_path"), "must stay within the claim", one.sub_path)
            yield from text(("volumes", number, "sub_path"), one.sub_path)

    def _hardware_findings(self) -> Iterator[Finding]:
        for name in ("memory_per_gpu", "shared_memory", "scratch"):
            yield from like((name,), getattr(self, name), _QUANTITY, "a size such as 64Gi")
        yield from like(("gpu_resource",), self.gpu_resource, _LABEL_KEY, "a resource such as nvidia.com/gpu")
        yield from like(("rdma", "resource"), self.rdma.resource, _LABEL_KEY, "a resource such as rdma/hca_shared")
        yield from _labels(("node_selector",), self.node_selector)
        yield from _labels(("pod_labels",), self.pod_labels)
        for kind, labels in self.gpu_types.items():
            yield from _labels(("gpu_types", kind), labels)
        for kind, label in self.kueue.topology.items():
            yield from one_of(("kueue", "topology"), kind, TOPOLOGY)
            yield from like(("kueue", "topology", kind), label, _LABEL_KEY, "a node label")
        for name in ("queue", "priority_class"):
            yield from like(("kueue", name), getattr(self.kueue, name), _DOMAIN, "a name as Kubernetes has them")
        for number, name in enumerate(self.image_pull_secrets):
            yield from like(("image_pull_secrets", number), name, _DOMAIN, "the name of a Secret")

    def _environment_findings(self) -> Iterator[Finding]:
        for section in ("environment", "nccl"):
            remedy = "name it in `secrets`, as in {HF_TOKEN: {name: my-secret, key: token}}"
            yield from variables(section, getattr(self, section), remedy)
        for name, reference in self.secrets.items():
            yield from variable(("secrets", name), name)
            yield from like(("secrets", name, "name"), reference.get("name", ""), _DOMAIN, "the name of a Secret")
            yield from like(("secrets", name, "key"), reference.get("key", ""), _SECRET_KEY, "a key of the Secret")
            if set(reference) != {"name", "key"}:
                remedy = "{name: my-secret, key: token}"
                yield Finding(("secrets", name), "must name a Secret and its key", remedy=remedy)


def quantity(text_of_size: str) -> int:
    """Bytes in a size as Kubernetes writes it: 64Gi, 500M."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMGT]i?)?", text_of_size)
    return int(float(found[1]) * _UNITS[found[2] or ""]) if found else 0


def _labels(key: Key, labels: Mapping[str, str]) -> Iterator[Finding]:
    for name, value in labels.items():
        yield from like((*key, name), name, _LABEL_KEY, "a label")
        yield from like((*key, name), value, _LABEL_VALUE, "a label's value")


def _path(key: Key, value: str) -> Iterator[Finding]:
    yield from text(key, value)
    if value and not value.startswith("/"):
        yield Finding(key, "must be an absolute path", value)
    if ".." in PurePosixPath(value).parts:
        yield Finding(key, "must not go upwards", value)


def _below(path: str, folder: str) -> PurePosixPath | None:
    inside, base = PurePosixPath(path), PurePosixPath(folder)
    return inside.relative_to(base) if inside.is_relative_to(base) else None


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, without what says nothing."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        found = {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        return {name: part for name, part in found.items() if part not in ("", None, {}, [])}
    return dict(value) if isinstance(value, Mapping) else value
