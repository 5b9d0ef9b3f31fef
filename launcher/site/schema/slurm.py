"""The file of a SLURM site profile."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.jobfile.schema import Walltime
from launcher.site.schema.texts import Text
from trainer.config import PositiveInt, Section


class ContainerFile(Section):
    """The image that every process of ours runs in."""

    kind: Literal["apptainer", "pyxis"] = Field(description="How the site runs images.")
    image: Text = Field(description="A .sif or .sqsh file that all nodes see, or an image's address.")
    mounts: list[Text] = Field(default_factory=list, description="Folders that the job sees beside its own ones.")


class SetupFile(Section):
    """How a job comes by its Python: at most one of venv, conda and container."""

    venv: Text | None = Field(None, description="Folder of a venv that all nodes see.")
    conda: Text | None = Field(None, description="Name or path of a conda environment.")
    container: ContainerFile | None = Field(None, description="An image, in place of both.")
    lines: list[Text] = Field(default_factory=list, description="Shell lines of the site's own, run first.")


class PreemptionFile(Section):
    """What the site does before it takes machines away."""

    grace_seconds: Annotated[int, Field(ge=0)] | None = Field(None, description="Seconds between warning and end.")
    signal: Literal["USR1", "TERM"] | None = Field(None, description="The warning: the job's own USR1, or SIGTERM.")


class PrepareFile(Section):
    """Where the data of runs are tokenised, so that no GPU waits for it."""

    where: Literal["job", "submit", "inside"] | None = Field(
        None,
        description="In a CPU job that the run's job waits for, on the submitting machine, or in the run's own job; "
        "default: a job where `partition` is given, else inside.",
    )
    partition: Text | None = Field(None, description="--partition of that job: one without GPUs.")
    account: Text | None = Field(None, description="Its --account; default: the run's.")
    qos: Text | None = Field(None, description="Its --qos; default: the run's.")
    constraint: Text | None = Field(None, description="Its --constraint.")
    cpus: PositiveInt | None = Field(None, description="CPU cores, each with a process that tokenises; default: 8.")
    memory: Text | None = Field(None, description="Its --mem, such as 64G.")
    walltime: Walltime | None = Field(None, description="Its longest time, such as 4h; default: the partition's.")


class ProfileFile(Section):
    """One cluster, or one way of using it."""

    backend: Literal["slurm"] = Field("slurm", description="The scheduler.")
    description: str = Field("", description="One line for people.")
    partition: Text | None = Field(None, description="--partition; none takes the site's default.")
    account: Text | None = Field(None, description="--account.")
    qos: Text | None = Field(None, description="--qos.")
    constraint: Text | None = Field(None, description="--constraint: features that nodes must have.")
    reservation: Text | None = Field(None, description="--reservation.")
    comment: Text | None = Field(None, description="--comment.")
    gpu_request: Literal["auto", "gpus-per-node", "gres", "gpus-per-task", "none"] = Field(
        "auto", description="How GPUs are asked for; auto follows SLURM's version, none asks for none."
    )
    gpu_types: dict[str, Text] = Field(default_factory=dict, description="Our name of a GPU to the site's.")
    gpus_per_node: PositiveInt | None = Field(None, description="GPUs that each node has.")
    exclusive: bool = Field(False, description="Whole nodes only.")
    memory: Text | None = Field(None, description="--mem of each node, such as 480G; 0 takes all of it.")
    cpus_per_gpu: PositiveInt | None = Field(None, description="CPU cores asked for with each GPU.")
    directives: dict[str, bool | int | str] = Field(default_factory=dict, description="More #SBATCH directives.")
    modules: list[Text] = Field(default_factory=list, description="`module load`ed, in this order.")
    setup: SetupFile = SetupFile()
    environment: dict[str, str] = Field(default_factory=dict, description="Variables of the job. Never secrets.")
    nccl: dict[str, str] = Field(default_factory=dict, description="NCCL's settings without the NCCL_ prefix.")
    forward: list[Text] = Field(default_factory=list, description="Variables taken over from who submits, by name.")
    run_root: Text | None = Field(None, description="Folder of run directories, on storage that all nodes share.")
    scratch: Text | None = Field(None, description="Fast storage of a node, for caches.")
    max_walltime: Walltime | None = Field(None, description="The longest a job may run here, such as 24h.")
    requeue: bool = Field(True, description="Whether the site lets jobs go back into the queue.")
    preemption: PreemptionFile = PreemptionFile()
    prepare: PrepareFile = PrepareFile()
    python: Text | None = Field(None, description="Python on the nodes, where it is not the submitting one.")


SECTIONS: dict[str, type[Section]] = {
    "": ProfileFile,
    "setup": SetupFile,
    "container": ContainerFile,
    "preemption": PreemptionFile,
    "prepare": PrepareFile,
}
