"""Low-rank adapters through PEFT, with a check that every setting took effect."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from trainer.config import MethodConfig
from trainer.errors import UserError
from trainer.model.adapters.quantise import quantised_layers


def add_adapters(causal_lm: nn.Module, method: MethodConfig) -> Any:
    """PEFT's wrapper of `causal_lm`, whose trainable parameters are those that `method` asks for, in float32.

    Raises:
        UserError: PEFT refuses the settings, or one of them takes no effect.
    """
    _check_can_train(causal_lm, method)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=method.lora_alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
        lora_dropout=method.lora_dropout,
        target_modules=method.target_modules,
        bias=method.bias,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        modules_to_save=method.modules_to_save,
        ensure_weight_tying=_saves_tied(causal_lm, method),
    )
    try:
        model = get_peft_model(causal_lm, config)
    except ValueError as error:
        raise UserError(f"PEFT refuses the method: {error}", remedy="see `method` in the job file") from error
    _check_took_effect(model, method)
    for parameter in model.parameters():
        if parameter.requires_grad:  # PEFT does so with its own, but not with biases and whole modules
            parameter.data = parameter.data.float()
    return model


def _saves_tied(model: nn.Module, method: MethodConfig) -> bool:
    """Whether an embedding that is the output layer, too, trains whole: PEFT else makes a copy of one of the two."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and embedding.weight is head.weight
    names = [name for name, module in model.named_modules() if module is embedding or module is head]
    return tied and any(name.endswith(saved) for name in names for saved in method.modules_to_save or [])


def _check_can_train(model: nn.Module, method: MethodConfig) -> None:
    quantised = [name for name, _ in quantised_layers(model)]
    for saved in method.modules_to_save or []:
        for name, _ in model.named_modules():
            if name.endswith(saved) and any(f"{layer}.".startswith(f"{name}.") for layer in quantised):
                raise UserError(
                    f"method.modules_to_save names {saved!r}, whose weights are quantised and cannot train",
                    remedy="leave it to its adapter, or take method.quantization out",
                )


def _check_took_effect(model: Any, method: MethodConfig) -> None:
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if method.bias != "none" and not any(name.endswith("bias") for name in trained):
        raise UserError(f"method.bias is {method.bias}, but the model has no such bias terms", remedy="remove it")
    for module in method.modules_to_save or []:
        if not any(f".{module}.modules_to_save." in name for name in trained):
            raise UserError(f"method.modules_to_save names {module!r}, which the model does not have")
    if isinstance(method.target_modules, list):
        kept = model.peft_config["default"].target_modules or ()
        experts = any(".experts." in name and ".lora_" in name for name in trained)
        for target in method.target_modules:
            if experts and target not in kept:  # PEFT has translated it to the stacked experts, or their router
                continue
            if not any(f".{target}.lora_A" in name or f".{target}.lora_embedding_A" in name for name in trained):
                raise UserError(f"method.target_modules names {target!r}, which the model does not have")
