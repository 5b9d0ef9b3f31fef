"""The vocabulary of a fine-tune: what the job file says and what the trainer reads.

The launcher builds its job file from these sections; the trainer reads the same sections, with every `auto`
resolved, from the run directory (`plan.json`, key `trainer`). Nothing here imports torch. Names are those of
TRL, Transformers and PEFT where these have one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Auto = Literal["auto"]
PositiveInt = Annotated[int, Field(gt=0)]

Engine = Literal["zero0", "zero1", "zero2", "zero3", "fsdp2"]
Attention = Literal["flash", "varlen", "flex", "sdpa", "padded", "own"]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
FOLLOWING_A_METRIC = {
    "reduce_lr_on_plateau": "its rate follows the held-out loss and is no function of the step",
    "greedy": "its rate follows the training loss and is no function of the step",
}
"""Schedules of Transformers that are refused, and why."""

ENGINES: tuple[str, ...] = get_args(Engine)
DECIDED_WHILE_RUNNING = ("checkpoint.every_minutes", "loss.output_router_logits", "loss.router_aux_loss_coef")
"""Settings whose `auto` the trainer itself decides, from what it measures."""


class Section(BaseModel):
    """A part of the job file: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which model to tune."""

    path: str = Field(min_length=1, description="A folder in Hugging Face layout, or a model name on the hub.")
    revision: str | None = Field(None, description="Commit of the hub model; needed with trust_remote_code.")
    trust_remote_code: bool = Field(False, description="Run the model's own Python code. Needs a pinned revision.")
    attention: Attention | Auto = Field(
        "auto", description="Attention backend for packed batches; `own` is the model's, without packing."
    )
    dtype: Literal["bfloat16", "float32"] | Auto = Field(
        "auto", description="Compute type of the forward pass; master weights stay in float32."
    )

    eos_token: str | None = Field(
        None, min_length=1, description="Token that ends a turn and stops generation; default: the tokenizer's own."
    )
    added_tokens: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Control tokens to add to the vocabulary, each a new row of the embedding and of the output layer.",
    )

    @model_validator(mode="after")
    def _pinned(self) -> ModelConfig:
        if self.trust_remote_code and not self.revision:
            raise ValueError("trust_remote_code runs the model's code: pin it with `revision: <commit>`")
        return self


class MethodConfig(Section):
    """Full fine-tune or LoRA; names as in PEFT's LoraConfig."""

    kind: Literal["full", "lora"] = Field("full", description="Train all weights, or low-rank adapters.")
    r: PositiveInt = Field(16, description="LoRA rank.")
    lora_alpha: float = Field(32, gt=0, description="LoRA scale numerator; the scale is lora_alpha / r.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: str | list[str] = Field("all-linear", description="Module names that get adapters.")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which bias terms train.")
    use_rslora: bool = Field(False, description="Scale by lora_alpha / sqrt(r) instead.")
    use_dora: bool = Field(False, description="Weight-decomposed adapters.")
    modules_to_save: list[str] | None = Field(None, description="Modules trained in full beside the adapters.")
    quantization: Literal["nf4", "int8"] | None = Field(
        None, description="Hold the frozen linear layers in 4-bit NormalFloat or 8-bit integers (QLoRA)."
    )
    double_quantization: bool = Field(True, description="With nf4, quantise the scales of its blocks as well.")

    @model_validator(mode="after")
    def _lora_only(self) -> MethodConfig:
        fields = type(self).model_fields
        extra = sorted(n for n in self.model_fields_set - {"kind"} if getattr(self, n) != fields[n].default)
        if self.kind == "full" and extra:
            raise ValueError(f"{', '.join(extra)} only act with `kind: lora`; remove them or set it")
        return self

    @model_validator(mode="after")
    def _quantised(self) -> MethodConfig:
        if not self.double_quantization and self.quantization != "nf4":
            raise ValueError("double_quantization only acts with `quantization: nf4`; remove it or set that")
        return self


ColumnUse = Literal[
    "messages",
    "conversations",
    "tools",
    "system",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "history",
    "question",
    "answer",
    "chosen",
    "text",
    "weight",
]
Columns = dict[ColumnUse, str | None]
COLUMNS = "Which column of the rows is read as what, such as `{prompt: ask, weight: null}`; null: not read at all."


def check_new_tokens_train(model: ModelConfig, method: MethodConfig) -> None:
    """Raises:
    ValueError: adapters would leave the rows of new tokens as they are.
    """
    if model.added_tokens and method.kind == "lora" and not method.modules_to_save:
        raise ValueError(
            "the rows of model.added_tokens would not be trained: with `kind: lora` set method.modules_to_save: "
            "[embed_tokens, lm_head], or [embed_tokens] for a model where both are one"
        )


class SourceConfig(Section):
    """One source of conversations."""

    path: str = Field(min_length=1, description="A file, a glob, a folder, or a dataset name on the hub.")
    weight: float = Field(1.0, gt=0, description="How many times an epoch goes through this source.")
    columns: Columns = Field(default_factory=dict, description=COLUMNS)


class EvalDataConfig(Section):
    """Where the evaluation rows come from: a share of the training rows, or files of their own."""

    split: float = Field(0.0, ge=0, lt=1, description="Share of the training rows that is held out.")
    path: str | None = Field(None, description="A file, glob or folder of evaluation rows.")
    columns: Columns = Field(default_factory=dict, description=f"With `path`. {COLUMNS}")

    @model_validator(mode="after")
    def _one_of(self) -> EvalDataConfig:
        if self.split and self.path:
            raise ValueError("give `split` or `path`, not both")
        if self.columns and not self.path:
            raise ValueError("`columns` only acts with `path`; remove it or set that")
        return self


class DataConfig(Section):
    """From conversations to packs."""

    train: list[SourceConfig] = Field(min_length=1, description="Sources of training rows.")
    eval: EvalDataConfig = Field(default_factory=lambda: EvalDataConfig())
    max_length: int = Field(2048, ge=8, le=4_194_304, description="Tokens in a pack, and the longest conversation.")
    overlong: Literal["drop", "truncate", "split", "error"] = Field(
        "drop", description="What becomes of conversations longer than max_length; always counted and reported."
    )
    packing: bool = Field(True, description="Lay whole conversations end to end, without padding.")
    assistant_only_loss: bool = Field(True, description="Supervise assistant turns only, or every token.")
    chat_template: str | None = Field(
        None, description="A built-in one (see docs/chat-templates.md), a name of the tokenizer's, or a .jinja file."
    )
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="Variables for the chat template, such as `enable_thinking: false`."
    )


class TrainingConfig(Section):
    """Optimizer, schedule and length of training; names as in Transformers' TrainingArguments."""

    num_train_epochs: float = Field(1.0, gt=0, description="Times through the data.")
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps; wins over num_train_epochs.")
    tokens_per_step: PositiveInt | Auto = Field("auto", description="Tokens in one optimizer step, over all ranks.")
    learning_rate: Annotated[float, Field(gt=0)] | Auto = Field("auto", description="Peak learning rate.")
    lr_scheduler_type: Schedule = Field("cosine", description="Shape of the learning rate.")
    lr_scheduler_kwargs: dict[str, float | int | str] = Field(
        default_factory=dict,
        description="Its arguments, by Transformers' names; rates are rates, not shares of the peak.",
    )
    warmup_steps: float = Field(
        0.03, ge=0, description="Steps of warm-up, the first of which learns already; below 1, a share of all steps."
    )
    optim: Literal["adamw_torch", "adamw_torch_fused"] = Field("adamw_torch_fused", description="Optimizer.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled decay; never on norms and biases.")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the global gradient norm; 0 turns clipping off.")
    gradient_checkpointing: bool | Auto = Field("auto", description="Recompute activations in the backward pass.")
    seed: int = Field(42, ge=0, lt=2**31)
    full_determinism: bool = Field(False, description="Only deterministic kernels: resume is then bit-exact.")

    @field_validator("lr_scheduler_type", mode="before")
    @classmethod
    def _function_of_the_step(cls, name: Any) -> Any:
        if why := FOLLOWING_A_METRIC.get(name if isinstance(name, str) else ""):
            raise ValueError(f"{name} is not offered: {why}; write cosine_with_min_lr, or one of the others")
        return name


class LossConfig(Section):
    """What a step minimises, defined over the whole global step."""

    reduction: Literal["token", "sequence"] = Field(
        "token", description="Mean over supervised tokens, or mean over conversations of their token means."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of probability spread over the vocabulary.")
    chunk_tokens: PositiveInt = Field(1024, description="Supervised positions whose logits exist at one time.")
    output_router_logits: bool | Auto = Field(
        "auto", description="Train a mixture of experts' auxiliary loss, too; auto: if the model's config.json says so."
    )
    router_aux_loss_coef: Annotated[float, Field(ge=0)] | Auto = Field(
        "auto", description="Weight of the auxiliary loss beside the cross-entropy; auto: that of config.json."
    )


class EvaluationConfig(Section):
    """Held-out loss during training, and prompts to answer at the end."""

    every_steps: PositiveInt | None = Field(None, description="Steps between evaluations; default: only at the end.")
    generate: str | None = Field(None, description="JSONL of prompts with answers, scored on the finished model.")
    max_new_tokens: PositiveInt = Field(128, description="Longest generated answer.")


class CheckpointConfig(Section):
    """When to save, and how many checkpoints to keep."""

    every_steps: PositiveInt | None = Field(None, description="Steps between checkpoints.")
    every_minutes: Annotated[float, Field(gt=0)] | Auto | None = Field(
        "auto",
        description="Minutes between checkpoints; auto weighs the measured cost of a save against failures seen.",
    )
    max_overhead: Annotated[float, Field(gt=0, le=1)] = Field(
        0.035, description="With auto, the largest share of the time that training may wait for saves."
    )
    keep: PositiveInt = Field(2, description="Newest checkpoints that stay; the last good one always does.")
    permanent_every_steps: PositiveInt | None = Field(
        None, description="Steps between checkpoints that are never pruned, beside the newest ones."
    )


class LoggingConfig(Section):
    """What is logged, how often, and where to."""

    every_seconds: float = Field(
        2.0, ge=0, description="Seconds between writes of metrics; every step gets its own line all the same."
    )
    tensorboard: bool = Field(True, description="Write TensorBoard events under the run directory.")


class ExecutionConfig(Section):
    """What the plan decided: how the global step is laid over the ranks."""

    engine: Engine
    device: Literal["cpu", "cuda"]
    world_size: PositiveInt
    packs_per_step: PositiveInt = Field(description="Packs in one optimizer step; independent of world_size.")
    micro_batch: PositiveInt = Field(description="Packs in one forward pass of one rank.")
    accumulation: PositiveInt = Field(description="Micro-steps per optimizer step and rank.")
    reshard_after_forward: bool = Field(True, description="FSDP2: free gathered weights after the forward pass.")
    shard_quantized: bool = Field(False, description="Split packed weights over the ranks; whole on each otherwise.")
    num_proc: PositiveInt = Field(1, description="Processes that tokenise.")

    @model_validator(mode="after")
    def _divides(self) -> ExecutionConfig:
        if self.world_size * self.micro_batch * self.accumulation != self.packs_per_step:
            raise ValueError("world_size * micro_batch * accumulation must equal packs_per_step exactly")
        return self


class TrainerConfig(Section):
    """Everything that the trainer reads: the job file's own sections, without any `auto`, and the execution."""

    name: str
    model: ModelConfig
    method: MethodConfig = MethodConfig()
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    loss: LossConfig = LossConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    execution: ExecutionConfig

    @model_validator(mode="after")
    def _new_tokens_train(self) -> TrainerConfig:
        check_new_tokens_train(self.model, self.method)
        return self

    @model_validator(mode="after")
    def _shardable(self) -> TrainerConfig:
        if self.execution.shard_quantized and (self.method.quantization is None or self.method.use_dora):
            raise ValueError("shard_quantized needs method.quantization, and DoRA reads whole weights: turn one off")
        return self

    @model_validator(mode="after")
    def _resolved(self) -> TrainerConfig:
        left = [name for name in unresolved(self) if name not in DECIDED_WHILE_RUNNING]
        if left:
            raise ValueError(f"still `auto`, the plan must decide: {', '.join(left)}")
        return self


def unresolved(section: BaseModel, prefix: str = "") -> list[str]:
    """Dotted names of the settings below `section` that still say `auto`."""
    found: list[str] = []
    for name, field in type(section).model_fields.items():
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            found += unresolved(value, f"{prefix}{name}.")
        elif value == "auto" and may_be_auto(field.annotation):  # a run, or a branch, may be called so
            found.append(f"{prefix}{name}")
    return found


def may_be_auto(annotation: Any) -> bool:
    """Whether `auto` leaves a setting of this type to the plan."""
    return annotation == "auto" or any(may_be_auto(part) for part in get_args(annotation))


def read_trainer_config(run_dir: Path) -> TrainerConfig:
    """The trainer's part of `plan.json` in a run directory.

    Raises:
        FileNotFoundError: `run_dir` holds no plan.
        pydantic.ValidationError: the plan was written by another version or edited by hand.
    """
    plan = json.loads((run_dir / "plan.json").read_text(encoding="utf-8"))
    return TrainerConfig.model_validate(plan["trainer"])
