"""The model that trains: a Transformers model whose forward pass is a weighted loss over packed conversations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from trainer.capabilities import OWN
from trainer.data.pack.batch import Batch
from trainer.errors import UserError
from trainer.model.adapters.quantised_shards import Shards
from trainer.model.attention.kernels import PackedBatchInfo
from trainer.model.attention.packed_attention import announce
from trainer.model.attention.rotary import by_conversation, conversations
from trainer.model.loss.cross_entropy import HeadSettings, install_loss_head
from trainer.model.loss.router import RouterSettings, balancing_loss, weight_of_conversations


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
        loss: torch.Tensor = output_layer(self.inner)(hidden, batch.target_ids, batch.target_weights, plain)
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
        packed = PackedBatchInfo(self._backend, batch)
        announce(packed)
        decoded = decoder(input_ids=batch.input_ids, position_ids=batch.position_ids, **options)
        if not packed.reached:
            raise UserError(
                f"the layers of {type(self.inner).__name__} compute attention themselves, over all borders",
                remedy="set `model.attention: own`, which trains without packing",
            )
        return decoded, torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)

    def _balancing(self, logits: Any, batch: Batch, places: torch.Tensor) -> torch.Tensor:
        """The router's auxiliary loss, each conversation's weighing as much as its supervised tokens."""
        assert self._router is not None
        each = balancing_loss(logits, batch, places, self._router.choices)
        balance: torch.Tensor = (each * weight_of_conversations(batch)).sum()
        self._balance = balance.detach() + (0.0 if self._balance is None else self._balance)
        return self._router.coefficient * balance

    def take_balance(self) -> torch.Tensor | None:
        """Weighted sum of the router's auxiliary loss since it was last taken, not read yet; None without one."""
        found, self._balance = self._balance, None
        return found


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
    linear: nn.Linear = head
    return linear


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
