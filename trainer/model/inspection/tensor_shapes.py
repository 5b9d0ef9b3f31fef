"""Tensors of a model without its weights: what the launcher counts where it does not know an architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from trainer.errors import UserError


def tensors_of(folder: Path) -> dict[str, Any]:
    """Dimensions of every parameter by name, tied ones once, and the names of all linear projections.

    Only Transformers' own code builds the model, on the meta device: never code that lies beside the weights.

    Raises:
        UserError: Transformers does not know the architecture, or cannot build it from this configuration.
    """
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UserError("Transformers does not know it either", remedy="Install a release of Transformers that does.")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        config.__dict__.pop("quantization_config", None)  # numbers are counted, not bytes
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # any architecture's own code runs in there
        reason = str(error).strip().splitlines()
        raise UserError(
            f"Transformers cannot build it: {reason[0] if reason else type(error).__name__}",
            remedy="Check that config.json belongs to a causal language model.",
        ) from error
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return {"tensors": {name: list(p.shape) for name, p in model.named_parameters()}, "linears": linears}
