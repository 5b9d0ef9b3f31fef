"""From a model folder and the method to the module that an engine trains."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.capabilities import OWN
from trainer.config import ModelConfig, TrainerConfig
from trainer.errors import UserError
from trainer.model.adapters.quantise import hide_quantised_weights, loading_options, refuse_quantised_checkpoint
from trainer.model.adapters.quantised_shards import Shards, sharded_while_loading
from trainer.model.attention import packed_attention
from trainer.model.inspection.examine import how_to_run
from trainer.model.loading.vocabulary import fit_vocabulary, refuse_untrained_rows
from trainer.model.loading.weights import load_complete, numberless, shortened
from trainer.model.loss.cross_entropy import head_settings
from trainer.model.loss.router import router_settings
from trainer.model.supervised import SupervisedModel
from trainer.model_files.inspection_cache import ALONE

logger = logging.getLogger(__name__)

UNLOADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    NotImplementedError,
    SafetensorError,
)
"""What an architecture's own code raises when it cannot be built from a configuration or files."""
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def build_model(config: TrainerConfig, weights: bool = True) -> SupervisedModel:
    """The model of a job, ready for an engine: on the CPU, or quantised on the device that it trains on.

    Args:
        weights: read them; False gives the same modules with what PyTorch puts into them.

    Raises:
        UserError: the model cannot be loaded, or a setting of the method takes no effect.
    """
    packed_attention.check_backend(str(config.model.attention), config.execution.device)
    verdict = how_to_run(config.model)
    backend = OWN if verdict.how == ALONE else str(config.model.attention)
    shards = Shards() if config.execution.shard_quantized else None
    load = partial(load_causal_lm, shards=shards) if weights else empty_causal_lm
    options: dict[str, Any] = {} if backend == OWN else {"attn_implementation": packed_attention.NAME}
    causal_lm = load(config, **options)
    fit_vocabulary(causal_lm, config.model)
    if backend != OWN and (dropout := packed_attention.silence_dropout(causal_lm)):
        logger.info(f"attention dropout of {dropout:g}, which the model's configuration declares, is not applied")
    settings = head_settings(causal_lm.config, config.loss)
    router = router_settings(causal_lm, config.loss)
    if router and verdict.router_fault:
        raise UserError(
            f"the auxiliary loss of this model's router cannot be trained: {verdict.router_fault}",
            remedy="set loss.output_router_logits: false",
        )
    if config.training.gradient_checkpointing is True:
        _enable_checkpointing(causal_lm)
    if config.method.kind == "lora":
        from trainer.model.adapters.lora import add_adapters

        causal_lm = add_adapters(causal_lm, config.method)
        hide_quantised_weights(causal_lm, config.method)
    else:
        causal_lm.requires_grad_(True)
    refuse_untrained_rows(causal_lm, config.model)
    if frozen := freeze_unused(causal_lm, verdict.unused):
        logger.info(
            f"{len(frozen)} tensors have no part in the loss and are not trained: {', '.join(shortened(frozen)[:5])}"
        )
    return SupervisedModel(causal_lm, backend, settings, shards, router)


def freeze_unused(model: nn.Module, patterns: list[str]) -> list[str]:
    """Keep parameters out of training that never get a gradient: they would only decay. Returns their names.

    Args:
        patterns: as the tiny twin gives them; an adapter is unused with the layer that it adapts.
    """
    frozen = []
    for name, parameter in model.named_parameters():
        plain = re.sub(r"^base_model\.model\.|\.base_layer(?=\.)|\.modules_to_save\.default(?=\.)", "", name)
        pattern = numberless(re.sub(r"\.lora_\w+(\.default)?(\.weight)?$", ".weight", plain))
        if parameter.requires_grad and pattern in patterns:
            parameter.requires_grad_(False)
            frozen.append(name)
    return frozen


def _enable_checkpointing(causal_lm: Any) -> None:
    try:
        causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(
            f"{type(causal_lm).__name__} cannot compute activations again in the backward pass",
            remedy="set `training.gradient_checkpointing: false`",
        ) from error


def load_causal_lm(config: TrainerConfig, shards: Shards | None = None, **options: Any) -> Any:
    """The Transformers model of a job, in the type that its weights are kept in; quantised if the method says so.

    Args:
        config: the plan's trainer part.
        shards: splits quantised weights over the ranks; by default every rank has them whole.
        options: of `from_pretrained`.
    """
    dtype = kept_dtype(config)
    options |= loading_options(config.method, config.execution.device, dtype)
    try:
        refuse_quantised_checkpoint(config.model.path, _configuration(config.model))
        with sharded_while_loading(shards):
            return load_complete(
                config.model.path,
                revision=config.model.revision,
                trust_remote_code=config.model.trust_remote_code,
                dtype=dtype,
                **options,
            )
    except UNLOADABLE as error:
        why = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"the model could not be loaded from {config.model.path}: {why}",
            remedy="`model.path` needs config.json and safetensors weights of a causal language model",
        ) from error


def empty_causal_lm(config: TrainerConfig, **options: Any) -> Any:
    """The same module without its weights."""
    model = config.model
    return AutoModelForCausalLM.from_config(
        _configuration(model), dtype=kept_dtype(config), trust_remote_code=model.trust_remote_code, **options
    )


def _configuration(model: ModelConfig) -> Any:
    return AutoConfig.from_pretrained(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)


def kept_dtype(config: TrainerConfig) -> torch.dtype:
    """The type that weights are kept in: FSDP2's masters are its parameters, DeepSpeed keeps masters of its own."""
    full_bf16 = config.method.kind == "lora" or config.execution.engine.startswith("zero")
    return DTYPES[str(config.model.dtype)] if full_bf16 else torch.float32


def attention_work(config: TrainerConfig) -> float:
    """c of the work model c * L + sum of squares: parameters of a layer over the width of its attention."""
    shape = _configuration(config.model).get_text_config()
    hidden = _size(shape, "hidden_size", 1)
    heads = _size(shape, "num_attention_heads", 1)
    head_dim = _size(shape, "head_dim", hidden // heads)
    width = head_dim * heads
    kv = head_dim * _size(shape, "num_key_value_heads", heads)
    inner = _size(shape, "intermediate_size", 4 * hidden)
    return (2 * hidden * width + 2 * hidden * kv + 3 * hidden * inner) / width


def _size(shape: Any, name: str, default: int) -> int:
    """A dimension of a model, the largest where it has one per layer; `default` where its family has no such thing."""
    try:
        value = getattr(shape, name, None)
    except RuntimeError:  # Gemma 4: a size of each layer, which has none of the whole
        value = None
    value = max(value, default=0) if isinstance(value, list | tuple) else value
    return value if isinstance(value, int) and value > 0 else default
