"""The settings of the job file: the sections of the trainer's configuration, `resources` and `cluster`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from rundir.quantities import WALLTIME_PATTERN
from trainer.config import (
    Auto,
    CheckpointConfig,
    DataConfig,
    Engine,
    EvaluationConfig,
    LoggingConfig,
    LossConfig,
    MethodConfig,
    ModelConfig,
    PositiveInt,
    Section,
    TrainingConfig,
    check_new_tokens_train,
)

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=53)]
Walltime = Annotated[str, StringConstraints(pattern=WALLTIME_PATTERN)]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegativeInt = Annotated[int, Field(ge=0)]


class ResourcesConfig(Section):
    """What the run may use, and how it is laid over that; `auto` leaves it to the plan."""

    gpu: str = Field("auto", min_length=1, description="Kind of GPU; none trains on the CPU, auto takes what is there.")
    nodes: PositiveInt | Auto = Field(
        "auto", description="Machines; the local profile has one, elsewhere auto takes what serves the objective."
    )
    max_nodes: PositiveInt = Field(16, description="Most machines that `nodes: auto` may take.")
    gpus_per_node: PositiveInt | Auto = Field("auto", description="GPUs, and so ranks, on each machine.")
    cpu_ranks: PositiveInt | Auto = Field("auto", description="Ranks when there is no GPU.")
    engine: Engine | Auto = Field("auto", description="DeepSpeed ZeRO stage 0 to 3, or FSDP2.")
    micro_batch: PositiveInt | Auto = Field("auto", description="Packs in one forward pass of one rank.")
    shard_quantized: bool | Auto = Field(
        "auto", description="Split quantised weights over the ranks; auto does so where they do not fit whole."
    )
    objective: Literal["cost", "time", "gpus"] = Field(
        "cost", description="What the plan saves: GPU-hours, time, or the number of GPUs."
    )
    deadline_hours: PositiveFloat | None = Field(None, description="Longest training that a plan may predict.")
    budget: PositiveFloat | None = Field(None, description="Most US dollars that a plan may predict.")
    walltime: Walltime | None = Field(None, description="Longest life of one attempt, such as 90m, 4h or 2d.")
    grace_seconds: Annotated[int, Field(ge=1, le=3600)] | Auto = Field(
        "auto", description="Seconds between the wish to stop and the end; auto: a step and two saves, at least 60."
    )
    hang_minutes: PositiveFloat | None = Field(
        15.0, description="Minutes without a heartbeat while steps are made that count as a hang; null: never."
    )
    start_minutes: PositiveFloat = Field(60.0, description="The same before the first step is done.")
    restart: bool = Field(True, description="Start the next attempt by itself after a crash, a hang or a lost node.")
    max_crashes: NotNegativeInt = Field(3, description="Crashes and hangs after which the run is left alone.")
    health_checks: list[Annotated[list[str], Field(min_length=1)]] = Field(
        default_factory=list, description="Commands that must end with 0 on a node before it is used."
    )
    skip_health_checks: list[str] = Field(default_factory=list, description="Built-in health checks to leave out.")


class ClusterConfig(Section):
    """Where the run takes place."""

    profile: str = Field("local", min_length=1, description="local: this machine; else a site profile's name or path.")


class JobDataConfig(DataConfig):
    """From conversations to packs; the plan decides what says `auto`."""

    packing: bool | Auto = Field(  # type: ignore[assignment]
        "auto",
        description="Lay whole conversations end to end, without padding; auto leaves them apart where they are few.",
    )


class JobFile(Section):
    """One fine-tune: the model, the data, how to train, and where."""

    name: Name = Field(description="Name of the run: lower-case letters, digits and dashes.")
    model: ModelConfig
    method: MethodConfig = MethodConfig()
    data: JobDataConfig
    training: TrainingConfig = TrainingConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    resources: ResourcesConfig = ResourcesConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _new_tokens_train(self) -> JobFile:
        check_new_tokens_train(self.model, self.method)
        return self


SHARED_SECTIONS = ("model", "method", "data", "training", "loss", "evaluation", "checkpoint", "logging")
"""The sections that the job file and the trainer's configuration have in common."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the job file, for editors."""
    return {"$schema": SCHEMA_DIALECT, **JobFile.model_json_schema()}
