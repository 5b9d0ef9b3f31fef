"""A Kubernetes site profile: what one cluster, or one way of using it, wants of every run. Checked one by one.

Everything in it becomes a value of the chart, so it is data to YAML and to Helm, never template text. Secrets
are named, never given: release values are kept in the cluster, and a plan is kept on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath
from typing import Any, Literal

from cluster.submitting.site_profiles import (
    Finding,
    Key,
    NotNegativeInt,
    PositiveInt,
    Text,
    Walltime,
    like,
    one_of,
    profile_from,
    setting,
    text,
    variable,
    variables,
)
from rundir.quantities import WALLTIME_PATTERN, walltime_seconds

JOB, SUBMIT, INSIDE = "job", "submit", "inside"
"""Where data are tokenised: in a Job without GPUs, on the submitting machine, in the run's own pods."""
PREPARE_CPUS = 8
PREPARE_MEMORY = "16Gi"
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
_WALLTIME = re.compile(WALLTIME_PATTERN)
_PLAIN = ("description", "context", "helm", "chart", "max_walltime", "network_annotation")
_OBJECTS = ("namespace", "priority_class", "service_account", "runtime_class", "scheduler")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Where run directories lie: storage that all nodes can mount."""

    claim: Text = setting("An existing ReadWriteMany claim.", "")
    size: Text = setting("In place of a claim: the chart makes one of this size per run.", "")
    storage_class: Text = setting("Of the claim that the chart makes.", "")
    path: Text = setting("Where the pods see it.", "/runs")
    local: Text = setting("The same folder on the submitting machine, if it is mounted there.", "")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A claim with models or data."""

    name: Text = setting("A short name, unique here.", "", required=True)
    claim: Text = setting("The claim.", "", required=True)
    path: Text = setting("Where the pods see it.", "", required=True)
    sub_path: Text = setting("A folder within the claim, in place of all of it.", "")
    read_only: bool = setting("Pods cannot write to it.", True)
    local: Text = setting("The same folder on the submitting machine: paths are translated.", "")


@dataclass(frozen=True, kw_only=True)
class Kueue:
    """The queue that admits runs, where Kueue is installed."""

    queue: Text = setting("The LocalQueue.", "")
    priority_class: Text = setting("A WorkloadPriorityClass.", "")
    topology: Mapping[str, Text] = setting(
        "{required: LABEL} or {preferred: LABEL}: how near to each other a run's nodes must be.", factory=dict
    )


@dataclass(frozen=True, kw_only=True)
class Rdma:
    """Network cards that pods get as an extended resource."""

    resource: Text = setting("The resource, such as rdma/hca_shared.", "", required=True)
    count: PositiveInt = setting("How many of them each pod gets.", 1)


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """What the site does before it takes machines away."""

    grace_seconds: NotNegativeInt | None = setting("Seconds between warning and end, on spot nodes say.")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Numbers that pods run as; those who own the files on the claims."""

    uid: PositiveInt = setting("User; never 0.", 1000)
    gid: PositiveInt = setting("Group.", 1000)
    fs_group: PositiveInt | None = setting("Group that claims are made writable for.")


@dataclass(frozen=True, kw_only=True)
class Secret:
    """Where a variable's value is kept; never the value."""

    name: Text = setting("The Secret, in the run's namespace.", "", required=True)
    key: Text = setting("Its key.", "", required=True)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Where the data of runs are tokenised, so that no GPU waits for it, and what the pod that does it asks for."""

    where: Literal["", "job", "submit", "inside"] = setting(
        "In a Job without GPUs before the run's own begins, on the submitting machine (with `runs.local`), or "
        "in the run's own pods; default: a Job where anything else is given here, else inside.",
        "",
    )
    cpus: PositiveInt | None = setting("CPU cores, each with a process that tokenises; default: 8.")
    memory: Text = setting("Memory of that pod, such as 64Gi; default: 16Gi.", "")
    node_selector: Mapping[str, Text] = setting("Labels that its node must have.", factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = setting("As in Kubernetes.", ())
    priority_class: Text = setting("Its PriorityClass; default: the run's.", "")
    queue: Text = setting("Its LocalQueue of Kueue; default: the run's.", "")
    walltime: Walltime = setting("Its longest time, such as 4h; default: none.", "")
    service_account: Text = setting(
        "An account that may patch the run's Job; none: the run's own gets that right, for that Job alone.", ""
    )

    @property
    def place(self) -> str:
        """In a Job of its own where the profile says anything about its pod; else in the run's own pods."""
        return self.where or (JOB if self.asked() else INSIDE)

    def asked(self) -> dict[str, Any]:
        """The settings of that Job's pod that are given."""
        return {one.name: value for one in fields(self) if one.name != "where" and (value := getattr(self, one.name))}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One cluster, or one way of using it."""

    name: str
    backend: Literal["kubernetes"] = setting("The scheduler.", "kubernetes")
    description: str = setting("One line for people.", "")
    context: Text = setting("A context of your kubeconfig; none takes the current one.", "")
    namespace: Text = setting("None takes the context's own.", "")
    image: Text = setting("The training image: tag or, better, digest.", "", required=True)
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = setting("As in Kubernetes.", "")
    image_pull_secrets: Sequence[Text] = setting("Secrets for the image's registry.", ())
    runs: Runs = setting("Where run directories lie.", factory=Runs, required=True)
    volumes: Sequence[Volume] = setting("Claims with models and data.", ())
    gpu_resource: Text = setting("The resource that GPUs are counted as.", "nvidia.com/gpu")
    gpu_types: Mapping[str, Mapping[str, Text]] = setting("Our name of a GPU to the labels of its nodes.", factory=dict)
    gpus_per_node: PositiveInt | None = setting("GPUs that each node has.")
    cpus_per_gpu: PositiveInt | None = setting("CPU cores for each GPU; without GPUs for each rank.")
    memory_per_gpu: Text = setting("Memory for each GPU, such as 200Gi; likewise.", "")
    shared_memory: Text = setting("Size of /dev/shm, which counts as memory.", "")
    scratch: Text = setting("Size of a node's own fast folder at /scratch, for caches.", "")
    priority_class: Text = setting("A PriorityClass.", "")
    kueue: Kueue = setting("Queue, where Kueue is installed.", factory=Kueue)
    jobset: Literal["auto", "always", "never"] = setting("Whether runs are JobSets; auto: if it can.", "auto")
    node_selector: Mapping[str, Text] = setting("Labels that nodes must have.", factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = setting("As in Kubernetes.", ())
    rdma: Rdma | None = setting("Network cards.")
    host_network: bool = setting("Pods use their node's network; restricted namespaces refuse it.", False)
    network_annotation: Text = setting("Multus' k8s.v1.cni.cncf.io/networks.", "")
    network_policy: bool = setting("Only the run's own pods may talk to its pods.", True)
    runtime_class: Text = setting("A RuntimeClass.", "")
    scheduler: Text = setting("Another scheduler's name.", "")
    environment: Mapping[str, str] = setting("Variables of the run. Never secrets.", factory=dict)
    nccl: Mapping[str, str] = setting("NCCL's settings without the NCCL_ prefix: {SOCKET_IFNAME: eth0}.", factory=dict)
    secrets: Mapping[str, Secret] = setting("Variables out of Secrets, by reference.", factory=dict)
    pod_labels: Mapping[str, Text] = setting("More labels of the pods.", factory=dict)
    pod_annotations: Mapping[str, str] = setting("More annotations of the pods.", factory=dict)
    service_account: Text = setting("An existing ServiceAccount; none: the chart makes one.", "")
    identity: Identity = setting("Numbers that pods run as.", factory=Identity)
    preemption: Preemption = setting("What comes before machines are taken away.", factory=Preemption)
    prepare: Prepare = setting("Where data are tokenised.", factory=Prepare)
    unreachable_seconds: NotNegativeInt = setting("How long a pod stays with a node that went silent.", 30)
    backoff_limit: NotNegativeInt | None = setting("Deaths of pods by themselves that a run survives.")
    keep_seconds: NotNegativeInt | None = setting("How long objects of a run that is over are kept; none: for good.")
    tensorboard: bool = setting("A TensorBoard beside each run.", False)
    max_walltime: Walltime = setting("The longest a run may live here, such as 24h.", "")
    helm: Text = setting("Path of Helm, where it is not on the PATH.", "")
    chart: Text = setting("A chart in place of the one that comes with Tuneyard.", "")

    @classmethod
    def from_dict(cls, name: str, data: Mapping[str, Any]) -> Profile:
        """A profile out of plain values.

        Raises:
            ProfileError: with everything that is wrong with them.
        """
        return profile_from(cls, name, data)

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong with the values."""
        for name in _PLAIN:
            yield from text((name,), getattr(self, name))
        for name in _OBJECTS:
            yield from like((name,), getattr(self, name), _DOMAIN, "a name as Kubernetes has them")
        if not self.image:
            yield Finding(("image",), "is needed", remedy="the address of an image with tuneyard in it")
        yield from like(("image",), self.image, _IMAGE, "an image's address, such as registry.example.com/tuneyard:1")
        yield from self._storage_findings()
        yield from self._hardware_findings()
        yield from self._environment_findings()
        yield from self._prepare_findings()
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
        """What the backend is told, as a plan keeps it: `cluster.kubernetes.submit.values` reads it."""
        left_out = ("name", "backend", "description", "gpu_types", "prepare")
        found = {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.name not in left_out}
        found["prepare"] = self._prepare_job()
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
        if self.rdma:
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

    def _prepare_job(self) -> dict[str, Any]:
        """Where data are tokenised, and what the Job that does it asks for; empty where the run's own pods do."""
        asked = self.prepare
        if asked.place != JOB:
            return {} if asked.place == INSIDE else {"where": asked.place}
        found: dict[str, Any] = {"where": JOB, "cpus": PREPARE_CPUS, "memory": PREPARE_MEMORY} | asked.asked()
        if walltime := found.pop("walltime", ""):
            found["walltime_seconds"] = walltime_seconds(walltime)
        return {name: _plain(value) for name, value in found.items()}

    def _prepare_findings(self) -> Iterator[Finding]:
        asked = self.prepare
        yield from like(("prepare", "memory"), asked.memory, _QUANTITY, "a size such as 64Gi")
        yield from like(("prepare", "walltime"), asked.walltime, _WALLTIME, "a time such as 90m, 4h or 2d")
        yield from _labels(("prepare", "node_selector"), asked.node_selector)
        for name in ("priority_class", "queue", "service_account"):
            yield from like(("prepare", name), getattr(asked, name), _DOMAIN, "a name as Kubernetes has them")
        if asked.queue and not self.kueue.queue:
            yield Finding(("prepare", "queue"), "needs `kueue.queue`, in which the run waits", asked.queue)
        for name, value in asked.asked().items() if asked.place != JOB else ():
            yield Finding(("prepare", name), "says nothing without a Job that tokenises", str(value), "`where: job`")
        if asked.where == SUBMIT:
            yield from self._submit_findings()

    def _submit_findings(self) -> Iterator[Finding]:
        """The submitting machine can tokenise into the run's own directory only, and only what it sees by its path."""
        key = ("prepare", "where")
        if not self.runs.local:
            remedy = "mount the claim here and name the folder in `runs.local`, or say `where: job`"
            yield Finding(key, "needs the run directory on this machine", SUBMIT, remedy)
        elif moved := [one.name for one in self.volumes if one.local not in ("", one.path)]:
            remedy = "mount it here where pods see it, or say `where: job`"
            yield Finding(key, f"needs volume {moved[0]} under the same path here and in pods", SUBMIT, remedy)

    def _environment_findings(self) -> Iterator[Finding]:
        for section in ("environment", "nccl"):
            remedy = "name it in `secrets`, as in {HF_TOKEN: {name: my-secret, key: token}}"
            yield from variables(section, getattr(self, section), remedy)
        for name, reference in self.secrets.items():
            yield from variable(("secrets", name), name)
            yield from like(("secrets", name, "name"), reference.name, _DOMAIN, "the name of a Secret")
            yield from like(("secrets", name, "key"), reference.key, _SECRET_KEY, "a key of the Secret")
            if not reference.name or not reference.key:
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
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, Mapping) else value
