"""From a model folder and the method to the module that an engine trains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.capabilities import OWN
from trainer.config import ModelConfig, TrainerConfig
from trainer.data.batch import Batch
from trainer.errors import UserError
from trainer.model import attention
from trainer.model.inspection import ALONE
from trainer.model.loss import HeadSettings, head_settings, install_loss_head
from trainer.model.quantise import hide_quantised_weights, loading_options, refuse_quantised_checkpoint
from trainer.model.rotary import by_conversation, conversations
from trainer.model.router import RouterSettings, balancing_loss, router_settings, weight_of_conversations
from trainer.model.shards import Shards, sharded_while_loading
from trainer.model.vocabulary import fit_vocabulary, refuse_untrained_rows
from trainer.model.weights import load_complete, numberless, shortened
from trainer.progress import say

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


class SupervisedModel(nn.Module):
    """A causal language model whose forward pass is a weighted loss over one flat micro-batch.

    Attributes:
        causal_lm: the Transformers model, or PEFT's wrapper of it.
        shared: only the first rank holds weights; the engine hands them out (trainer.model.sharing).
    """

    causal_lm: Any
    shared: bool = False

    def __init__(
        self,
        causal_lm: nn.Module,
        backend: str,
        settings: HeadSettings,
        shards: Shards | None = None,
        router: RouterSettings | None = None,
    ) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._shards = shards
        self._backend = backend
        self._router = router
        self._balance: torch.Tensor | None = None
        by_conversation(self.inner)
        head = output_layer(self.inner)
        install_loss_head(head, settings)

    @property
    def inner(self) -> Any:
        """The Transformers model itself."""
        return self.causal_lm.get_base_model() if hasattr(self.causal_lm, "peft_config") else self.causal_lm

    def forward(self, batch: Batch, plain: bool = False) -> torch.Tensor:
        """Sum of weight times cross-entropy over the batch's supervised tokens, float32 scalar.

        Args:
            plain: without label smoothing, as evaluation reports it.
        """
        if self._shards:
            self._shards.begin()
        with conversations(batch):
            decoded, places = self._decoded(batch)
        hidden = decoded.last_hidden_state.flatten(0, 1).index_select(0, places[batch.target_index])
        loss = output_layer(self.inner)(hidden, batch.target_ids, batch.target_weights, plain)
        return loss if plain or self._router is None else loss + self._balancing(decoded.router_logits, batch, places)

    def _decoded(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        """What the decoder answers, and the row of each of the batch's tokens among its flattened states."""
        decoder = decoder_of(self.inner)
        options: dict[str, Any] = {"use_cache": False}
        if self._router is not None:
            options["output_router_logits"] = True
        if self._backend == OWN:  # rows padded at their ends, which nothing causal looks at from before
            rows = batch.input_ids[0][batch.padded_index]
            return decoder(input_ids=rows, **options), batch.restore_index
        segments = attention.Segments(self._backend, batch)
        attention.announce(segments)
        decoded = decoder(input_ids=batch.input_ids, position_ids=batch.position_ids, **options)
        if not segments.reached:
            raise UserError(
                f"the layers of {type(self.inner).__name__} compute attention themselves, over all borders",
                remedy="set `model.attention: own`, which trains without packing",
            )
        return decoded, torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)

    def _balancing(self, logits: Any, batch: Batch, places: torch.Tensor) -> torch.Tensor:
        """The router's auxiliary loss, each conversation's weighing as much as its supervised tokens."""
        assert self._router is not None
        each = balancing_loss(logits, batch, places, self._router.choices)
        balance = (each * weight_of_conversations(batch)).sum()
        self._balance = balance.detach() + (0.0 if self._balance is None else self._balance)
        return self._router.coefficient * balance

    def take_balance(self) -> torch.Tensor | None:
        """Weighted sum of the router's auxiliary loss since it was last taken, not read yet; None without one."""
        found, self._balance = self._balance, None
        return found


def build_model(config: TrainerConfig, weights: bool = True) -> SupervisedModel:
    """The model of a job, ready for an engine: on the CPU, or quantised on the device that it trains on.

    Args:
        weights: read them; False gives the same modules with what PyTorch puts into them.

    Raises:
        UserError: the model cannot be loaded, or a setting of the method takes no effect.
    """
    attention.check_backend(str(config.model.attention), config.execution.device)
    from trainer.model.examine import how_to_run  # which builds tiny models with what stands here

    verdict = how_to_run(config.model)
    backend = OWN if verdict.how == ALONE else str(config.model.attention)
    shards = Shards() if config.execution.shard_quantized else None
    load = partial(load_causal_lm, shards=shards) if weights else empty_causal_lm
    options: dict[str, Any] = {} if backend == OWN else {"attn_implementation": attention.NAME}
    causal_lm = load(config, **options)
    fit_vocabulary(causal_lm, config.model)
    if backend != OWN and (dropout := attention.silence_dropout(causal_lm)):
        say(f"attention dropout of {dropout:g}, which the model's configuration declares, is not applied")
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
        from trainer.model.lora import add_adapters

        causal_lm = add_adapters(causal_lm, config.method)
        hide_quantised_weights(causal_lm, config.method)
    else:
        causal_lm.requires_grad_(True)
    refuse_untrained_rows(causal_lm, config.model)
    if frozen := freeze_unused(causal_lm, verdict.unused):
        say(f"{len(frozen)} tensors have no part in the loss and are not trained: {', '.join(shortened(frozen)[:5])}")
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


def output_layer(causal_lm: Any) -> nn.Linear:
    """The vocabulary layer, a plain linear one.

    Raises:
        UserError: it carries an adapter.
    """
    head = causal_lm.get_output_embeddings()
    if hasattr(head, "modules_to_save"):
        head = head.modules_to_save["default"]
    if head is None or type(head).__name__ != "Linear" or hasattr(head, "lora_A"):
        raise UserError(
            f"the output layer is {type(head).__name__}, not a plain linear layer",
            remedy="leave the output layer out of method.target_modules",
        )
    return head


def decoder_of(causal_lm: Any) -> Any:
    """What comes before the output layer; some architectures answer with themselves or with their output layer."""
    found = causal_lm.get_decoder()
    return causal_lm.model if found is causal_lm or isinstance(found, nn.Linear) else found


def decoder_layers(model: SupervisedModel) -> list[nn.Module]:
    """The repeated blocks of the model, the units in which engines gather parameters."""
    for _, module in decoder_of(model.inner).named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and list(module[0].parameters()):
            return list(module)
    raise UserError("the model has no list of layers", remedy="use an engine other than fsdp2")


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names (as Transformers and PEFT know them) and parameters that train."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name.removeprefix("causal_lm."), parameter


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
