"""From a checkpoint to a model in Hugging Face layout, as Transformers and PEFT write it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from trainer.checkpoint.format.manifest import (
    DamagedCheckpointError,
    Manifest,
    published,
    verified,
)
from trainer.checkpoint.format.range_reader import RangeReader
from trainer.config import TrainerConfig
from trainer.data.chat_template.tokenizer import load_tokenizer, make_renderer
from trainer.errors import UserError
from trainer.runtime.phase_progress import counting, folder_bytes, measuring

logger = logging.getLogger(__name__)


def export(
    run_dir: Path, config: TrainerConfig, *, step: int | None = None, merge: bool = False, output: Path | None = None
) -> Path:
    """Write the newest good checkpoint, or that of `step`, to `output` (default: the run's `model/`).

    Args:
        merge: add the adapter into the base weights, so that the result needs no PEFT. The weights are those of the
            model in full precision, also when the adapter was trained on quantised ones.

    Raises:
        UserError: there is no good checkpoint, or `output` holds something that is not an export.
    """
    folder, manifest = chosen(run_dir / "checkpoints", step)
    logger.info(f"exporting step {manifest.step}")
    target = output or run_dir / "model"
    if target.exists() and not (target / "config.json").exists() and not (target / "adapter_config.json").exists():
        raise UserError(f"{target} exists and is no exported model", remedy="move it away, or choose another --output")
    model, dtypes = _loaded(config, RangeReader(folder, manifest), manifest, run_dir)
    if config.method.quantization:
        logger.info(_about_precision(config, merge))
    if merge and config.method.kind == "lora":
        model = _merged(model, dtypes)
    staging = target.with_name(f".{target.name}-staging")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        with measuring(run_dir, "writing", lambda: folder_bytes(staging) / 1e6, _num_megabytes(model), "MB"):
            model.save_pretrained(staging, max_shard_size="5GB")
        save_chat(config, model, staging)
        _swap(staging, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)  # a half-written model fills the disk and is of no use
        raise UserError(
            f"the model cannot be written: {error}",
            where=str(target),
            remedy="free space there and export again, or name another folder with --output; the checkpoints are kept",
        ) from error
    return target


def _num_megabytes(model: Any) -> float | None:
    """How much will be written; of an adapter too little to be counted."""
    if hasattr(model, "peft_config"):
        return None
    return float(sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 1e6)


def save_chat(config: TrainerConfig, model: Any, folder: Path) -> None:
    """What a server needs to talk to the model: tokenizer, chat template, the tokens that end a turn."""
    tokenizer = load_tokenizer(config.model)
    if config.data.chat_template is None and not tokenizer.chat_template:  # learnt from plain text
        tokenizer.save_pretrained(folder)
        return
    renderer = make_renderer(tokenizer, config.model, config.data)
    if config.data.chat_template is not None:
        tokenizer.chat_template = renderer.templates["default"]
    tokenizer.save_pretrained(folder)
    if (model.generation_config.eos_token_id or []) == renderer.ends.ids:
        return
    model.generation_config.eos_token_id = renderer.ends.ids
    try:
        model.generation_config.save_pretrained(folder)
    except ValueError as error:  # Transformers refuses some that base models were published with
        logger.warning(
            f"generation_config.json cannot be written ({error}): turns end with {', '.join(renderer.ends.texts)}"
        )


def chosen(checkpoints: Path, step: int | None) -> tuple[Path, Manifest]:
    """The newest good checkpoint, or that of `step`.

    Raises:
        UserError: there is none.
    """
    problems = []
    for found, folder in published(checkpoints):
        if step is None or found == step:
            try:
                return folder, verified(folder)
            except DamagedCheckpointError as damage:
                logger.warning(f"{folder.name} is damaged and left out: {damage}")
                problems.append(f"{folder.name}: {damage}")
    have = ", ".join(str(found) for found, _ in published(checkpoints)) or "none"
    raise UserError(
        "there is no good checkpoint" + (f" of step {step}" if step else ""),
        where=str(checkpoints),
        remedy=f"steps that have one: {have}" + (f"; damaged: {'; '.join(problems)}" if problems else ""),
    )


def _about_precision(config: TrainerConfig, merge: bool) -> str:
    kind = config.method.quantization
    if merge:
        return f"merging into the full-precision weights; the adapter was trained on {kind} ones"
    return f"the adapter was trained on {kind} weights; PEFT loads it on those and on the full-precision model"


def _merged(model: Any, dtypes: dict[str, torch.dtype]) -> Any:
    """The base model with the adapter added in, every tensor in the type that it is stored in."""
    merged = model.merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))
    return merged


def _loaded(
    config: TrainerConfig, reader: RangeReader, manifest: Manifest, run_dir: Path
) -> tuple[Any, dict[str, torch.dtype]]:
    """The trained model, never quantised, and the types in which its own tensors are stored."""
    from trainer.model.loading.vocabulary import load_base

    model = load_base(config.model)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    if config.method.kind == "lora":
        from trainer.model.adapters.lora import add_adapters

        model = add_adapters(model, config.method)
    with counting(run_dir, "exporting", len(manifest.shapes), "tensors") as counter:
        fill(model, reader, manifest, counter.at)
    return model, dtypes


@torch.no_grad()
def fill(
    model: nn.Module, reader: RangeReader, manifest: Manifest, tell: Callable[[int], None] = lambda done: None
) -> None:
    """Copy a checkpoint's parameters into a model as Transformers or PEFT names them; `tell` hears how many are done.

    Raises:
        UserError: the model lacks one of them.
    """
    parameters = dict(model.named_parameters())
    missing = [name for name in manifest.shapes if name not in parameters]
    if missing:
        raise UserError(f"the checkpoint holds tensors that the model does not have: {', '.join(missing[:5])}")
    for done, name in enumerate(manifest.shapes):
        parameters[name].copy_(reader.whole(name))
        tell(done + 1)


def _swap(staging: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
