"""The held-out loss of a checkpoint, in one process: for a run that is trained and whose own evaluation failed."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from trainer.checkpoint.export import chosen, fill
from trainer.checkpoint.format.manifest import Manifest
from trainer.checkpoint.format.range_reader import RangeReader
from trainer.config import TrainerConfig
from trainer.data.pack.batch import Batch
from trainer.data.pack.global_order import GlobalOrder
from trainer.data.shards.token_store import TokenStore
from trainer.errors import UserError
from trainer.evaluation.held_out import held_out_loss
from trainer.model.build import DTYPES, build_model
from trainer.model.supervised import SupervisedModel
from trainer.runtime.collectives import Ranks

logger = logging.getLogger(__name__)


class EvaluationEngine:
    """A model that is only evaluated, as `held_out_loss` wants an engine to be."""

    def __init__(self, model: SupervisedModel, device: torch.device) -> None:
        self.model, self.device = model.to(device).eval(), device

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> torch.Tensor:
        """Weighted loss sum of a batch."""
        loss: torch.Tensor = self.model(batch, plain=True)
        return loss


def held_out_loss_of(run_dir: Path, config: TrainerConfig, step: int | None = None) -> dict[str, Any]:
    """Compute the held-out loss of the newest good checkpoint, or that of `step`, and add it to the run's metrics.

    Returns:
        The line of metrics.

    Raises:
        UserError: there is no good checkpoint, or nothing is held out.
    """
    folder, manifest = chosen(run_dir / "checkpoints", step)
    logger.info(f"evaluating step {manifest.step}")
    here = _on_one_device(config)
    model = _loaded(here, folder, manifest)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    order = GlobalOrder(TokenStore(run_dir / "data" / "train"), here.model_copy(update=_to_the_end(here, manifest)))
    engine: Any = EvaluationEngine(model, torch.device(here.execution.device))
    result = held_out_loss(engine, run_dir, order, Ranks())
    if result is None:
        raise UserError("the run holds no rows out", remedy="data.eval in the job file does; it belongs to a new run")
    line = {"step": manifest.step, **result, "attempt": manifest.attempt, "time": time.time()}
    with (run_dir / "logs" / "metrics.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")
    return line


def _on_one_device(config: TrainerConfig) -> TrainerConfig:
    """The same job on one device of this machine; on its CPU, if it has no GPU."""
    execution: dict[str, Any] = {"world_size": 1, "shard_quantized": False}
    model: dict[str, Any] = {}
    if config.execution.device == "cuda" and not torch.cuda.is_available():
        logger.warning("there is no GPU here: evaluating on the CPU")
        execution["device"], model["attention"] = "cpu", "padded"
    sections = {"execution": config.execution.model_copy(update=execution)}
    return config.model_copy(update={**sections, "model": config.model.model_copy(update=model)})


def _to_the_end(config: TrainerConfig, manifest: Manifest) -> dict[str, Any]:
    """Only which rows are held out is asked, so no epoch need be packed."""
    return {"training": config.training.model_copy(update={"max_steps": max(1, manifest.step)})}


def _loaded(config: TrainerConfig, folder: Path, manifest: Manifest) -> SupervisedModel:
    """The trained model, in the type that it computed in."""
    model = build_model(config)
    fill(model.causal_lm, RangeReader(folder, manifest), manifest)
    compute = DTYPES[str(config.model.dtype)]
    for parameter in model.parameters():
        if parameter.dtype.is_floating_point:
            parameter.data = parameter.data.to(compute)
    return model
