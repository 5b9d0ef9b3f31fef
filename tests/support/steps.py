"""Engines and real optimizer steps without the training loop, several engines one after the other in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import tiny
from tests.support.ranks import run_on_ranks


def prepared_run(folder: Path, rows: int = 60, **model: Any) -> dict[str, str]:
    """A tiny model and tokenised rows: arguments of `job`."""
    made = tiny.make_model(folder / "model", **model)
    file = tiny.write_rows(folder / "rows.jsonl", rows)
    run = tiny.make_run(folder / "run", tiny.trainer_config(made, file))
    run_on_ranks(prepare_run, 1, str(run), distributed=False)
    return {"model": str(made), "rows": str(file), "run": str(run)}


def prepare_run(run_dir: str) -> dict[str, Any]:
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare

    return prepare(Path(run_dir), read_trainer_config(Path(run_dir)))


def job(made: dict[str, str], engine: str, world_size: int, **changes: Any) -> Any:
    """The trainer's configuration on so many ranks; a step is always the same four packs."""
    from trainer.config import TrainerConfig

    execution = {"engine": engine, "world_size": world_size, "accumulation": 4 // world_size}
    raw = tiny.trainer_config(Path(made["model"]), Path(made["rows"]), execution=execution, **changes)
    return TrainerConfig.model_validate(raw)


class Bench:
    """An engine of a job, and the work of its steps."""

    def __init__(self, made: dict[str, str], config: Any) -> None:
        import torch.distributed as dist

        from trainer.data.pack.global_order import GlobalOrder
        from trainer.data.shards.token_store import TokenStore
        from trainer.engines import build_engine
        from trainer.model.sharing import build_shared_model
        from trainer.run.loop import seed_everything
        from trainer.run.step_source import StepSource
        from trainer.runtime.collectives import Ranks

        seed_everything(config.training.seed, config.training.full_determinism)
        self.config = config
        self.engine = build_engine(build_shared_model(config, Ranks()), config)
        order = GlobalOrder(TokenStore(Path(made["run"]) / "data" / "train"), config)
        self._source = StepSource(order, config, dist.get_rank(), pin=False)

    def accumulate(self, number: int) -> float:
        """Forward and backward of global step `number`; this rank's part of the mean loss."""
        share = self._source.step(number)
        last = len(share.batches) - 1
        losses = [self.engine.micro_step(b, 1 / share.total, at == last) for at, b in enumerate(share.batches)]
        return float(sum(losses)) / share.total

    def step(self, number: int, learning_rate: float) -> float:
        loss = self.accumulate(number)
        self.engine.optimizer_step(learning_rate)
        return loss

    def loss(self, number: int) -> float:
        """This rank's part of the loss of step `number`, without training on it."""
        share = self._source.step(number)
        return float(sum(self.engine.evaluate(batch) for batch in share.batches)) / share.total
