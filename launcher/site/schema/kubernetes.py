"""The file of a Kubernetes site profile."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from launcher.jobfile.schema import Walltime
from launcher.site.schema.texts import Text
from trainer.config import PositiveInt, Section

NotNegative = Annotated[int, Field(ge=0)]


class RunsFile(Section):
    """Where run directories lie: storage that all nodes can mount."""

    claim: Text | None = Field(None, description="An existing ReadWriteMany claim.")
    size: Text | None = Field(None, description="In place of a claim: the chart makes one of this size per run.")
    storage_class: Text | None = Field(None, description="Of the claim that the chart makes.")
    path: Text = Field("/runs", description="Where the pods see it.")
    local: Text | None = Field(None, description="The same folder on the submitting machine, if it is mounted there.")


class VolumeFile(Section):
    """A claim with models or data."""

    name: Text = Field(description="A short name, unique here.")
    claim: Text = Field(description="The claim.")
    path: Text = Field(description="Where the pods see it.")
    sub_path: Text | None = Field(None, description="A folder within the claim, in place of all of it.")
    read_only: bool = Field(True, description="Pods cannot write to it.")
    local: Text | None = Field(None, description="The same folder on the submitting machine: paths are translated.")


class KueueFile(Section):
    """The queue that admits runs, where Kueue is installed."""

    queue: Text | None = Field(None, description="The LocalQueue.")
    priority_class: Text | None = Field(None, description="A WorkloadPriorityClass.")
    topology: dict[str, Text] = Field(default_factory=dict, description="{required: LABEL} or {preferred: LABEL}.")


class RdmaFile(Section):
    """Network cards that pods get as an extended resource."""

    resource: Text = Field(description="The resource, such as rdma/hca_shared.")
    count: PositiveInt = Field(1, description="How many of them each pod gets.")


class PreemptionFile(Section):
    """What the site does before it takes machines away."""

    grace_seconds: NotNegative | None = Field(None, description="Seconds between warning and end, on spot nodes say.")


class IdentityFile(Section):
    """Numbers that pods run as."""

    uid: PositiveInt = Field(1000, description="User; never 0.")
    gid: PositiveInt = Field(1000, description="Group.")
    fs_group: PositiveInt | None = Field(None, description="Group that claims are made writable for.")


class SecretFile(Section):
    """Where a variable's value is kept; never the value."""

    name: Text = Field(description="The Secret, in the run's namespace.")
    key: Text = Field(description="Its key.")


class ProfileFile(Section):
    """One cluster, or one way of using it."""

    backend: Literal["kubernetes"] = Field(description="The scheduler.")
    description: str = Field("", description="One line for people.")
    context: Text | None = Field(None, description="A context of your kubeconfig; none takes the current one.")
    namespace: Text | None = Field(None, description="None takes the context's own.")
    image: Text = Field(description="The training image: tag or, better, digest.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(None, description="As in Kubernetes.")
    image_pull_secrets: list[Text] = Field(default_factory=list, description="Secrets for the image's registry.")
    runs: RunsFile = Field(description="Where run directories lie.")
    volumes: list[VolumeFile] = Field(default_factory=list, description="Claims with models and data.")
    gpu_resource: Text = Field("nvidia.com/gpu", description="The resource that GPUs are counted as.")
    gpu_types: dict[str, dict[str, Text]] = Field(
        default_factory=dict, description="Our name of a GPU to the labels of its nodes."
    )
    gpus_per_node: PositiveInt | None = Field(None, description="GPUs that each node has.")
    cpus_per_gpu: PositiveInt | None = Field(None, description="CPU cores for each GPU; without GPUs for each rank.")
    memory_per_gpu: Text | None = Field(None, description="Memory for each GPU, such as 200Gi; likewise.")
    shared_memory: Text | None = Field(None, description="Size of /dev/shm, which counts as memory.")
    scratch: Text | None = Field(None, description="Size of a node's own fast folder, for caches.")
    priority_class: Text | None = Field(None, description="A PriorityClass.")
    kueue: KueueFile | None = Field(None, description="Queue, where Kueue is installed.")
    jobset: Literal["auto", "always", "never"] = Field("auto", description="Whether runs are JobSets; auto: if it can.")
    node_selector: dict[str, Text] = Field(default_factory=dict, description="Labels that nodes must have.")
    tolerations: list[dict[str, Any]] = Field(default_factory=list, description="As in Kubernetes.")
    rdma: RdmaFile | None = Field(None, description="Network cards.")
    host_network: bool = Field(False, description="Pods use their node's network; restricted namespaces refuse it.")
    network_annotation: Text | None = Field(None, description="Multus' k8s.v1.cni.cncf.io/networks.")
    network_policy: bool = Field(True, description="Only the run's own pods may talk to its pods.")
    runtime_class: Text | None = Field(None, description="A RuntimeClass.")
    scheduler: Text | None = Field(None, description="Another scheduler's name.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables of the run. Never secrets.")
    nccl: dict[str, str] = Field(default_factory=dict, description="NCCL's settings without the NCCL_ prefix.")
    secrets: dict[str, SecretFile] = Field(default_factory=dict, description="Variables out of Secrets, by reference.")
    pod_labels: dict[str, Text] = Field(default_factory=dict, description="More labels of the pods.")
    pod_annotations: dict[str, str] = Field(default_factory=dict, description="More annotations of the pods.")
    service_account: Text | None = Field(None, description="An existing ServiceAccount; none: the chart makes one.")
    identity: IdentityFile | None = Field(None, description="Numbers that pods run as.")
    preemption: PreemptionFile | None = Field(None, description="What comes before machines are taken away.")
    unreachable_seconds: NotNegative = Field(30, description="How long a pod stays with a node that went silent.")
    backoff_limit: NotNegative | None = Field(None, description="Deaths of pods by themselves that a run survives.")
    keep_seconds: NotNegative | None = Field(None, description="How long objects of a run that is over are kept.")
    tensorboard: bool = Field(False, description="A TensorBoard beside each run.")
    max_walltime: Walltime | None = Field(None, description="The longest a run may live here, such as 24h.")
    helm: Text | None = Field(None, description="Path of Helm, where it is not on the PATH.")
    chart: Text | None = Field(None, description="A chart in place of the one that comes with Tuneyard.")


SECTIONS: dict[str, type[Section]] = {
    "": ProfileFile,
    "runs": RunsFile,
    "volumes": VolumeFile,
    "kueue": KueueFile,
    "rdma": RdmaFile,
    "secrets": SecretFile,
    "preemption": PreemptionFile,
    "identity": IdentityFile,
}
