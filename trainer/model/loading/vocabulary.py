"""New tokens: rows of the embedding and of the output layer that the base model does not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainer.config import ModelConfig
from trainer.data.chat_template.tokenizer import added_ids
from trainer.errors import UserError
from trainer.model.loading.weights import load_complete


def load_base(model: ModelConfig) -> Any:
    """The model of a job before training, never quantised, in the types that its files have, with its new tokens.

    Raises:
        UserError: the files do not hold what the model has.
    """
    base = load_complete(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, dtype="auto")
    fit_vocabulary(base, model)
    return base


def fit_vocabulary(causal_lm: Any, model: ModelConfig) -> None:
    """Give `causal_lm` rows for `model.added_tokens`, each the mean of the rows of the tokens that were there.

    Rows that a model has to spare, as many do to fill their vocabulary up, are used first.
    """
    ids = added_ids(model)
    if not ids:
        return
    embedding = causal_lm.get_input_embeddings()
    if max(ids) >= embedding.weight.shape[0]:
        causal_lm.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    layers = [causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()]
    for parameter in {id(p): p for layer in layers if layer is not None for p in layer.parameters()}.values():
        if not parameter.is_meta:
            _set_to_mean(parameter, ids)


@torch.no_grad()
def _set_to_mean(rows: nn.Parameter, ids: list[int]) -> None:
    rows[ids] = rows[: min(ids)].float().mean(0).to(rows.dtype)


def refuse_untrained_rows(causal_lm: Any, model: ModelConfig) -> None:
    """Raises:
    UserError: the rows of new tokens would stay as they are.
    """
    if not added_ids(model):
        return
    base = causal_lm.get_base_model() if hasattr(causal_lm, "peft_config") else causal_lm
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    if all(any(p.requires_grad for p in layer.parameters()) for layer in layers if layer is not None):
        return
    names = [name for name, module in base.named_modules() if any(module is layer for layer in layers)]
    tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    wanted = [name.rpartition(".")[2] for name in (names[:1] if tied else names)]
    raise UserError(
        f"the rows of new tokens ({', '.join(model.added_tokens)}) would not be trained: the adapters leave the "
        "embedding and the output layer as they are",
        remedy=f"set method.modules_to_save: [{', '.join(wanted)}], or take tokens that the vocabulary has",
    )
