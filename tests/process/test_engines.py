"""The same global step gives the same gradient, however it is split over ranks and micro-steps, on every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from tests.support.ranks import run_on_ranks
from trainer.config import ENGINES, TrainerConfig

SPLITS = [(1, 4), (2, 2), (4, 1)]


def gradients(raw: dict[str, Any], run_dir: str) -> dict[str, list[float]]:
    """Every trainable parameter's gradient of step 0, and the gradient norm."""
    import torch.distributed as dist

    from trainer.data.pack.batch import Reduction, collate
    from trainer.data.pack.global_order import GlobalOrder, deal, work_of
    from trainer.data.shards.token_store import TokenStore
    from trainer.engines import build_engine
    from trainer.model.sharing import build_shared_model
    from trainer.model.supervised import trainable_parameters
    from trainer.runtime.collectives import Ranks

    config = TrainerConfig.model_validate(raw)
    store = TokenStore(Path(run_dir) / "data" / "train")
    order = GlobalOrder(store, config)
    engine = build_engine(build_shared_model(config, Ranks()), config)
    packs = order.packs_of(0)
    execution = config.execution
    dealt = deal(
        work_of(packs, store.rows["length"], 8), execution.world_size, execution.accumulation, execution.micro_batch
    )
    reduction = Reduction(store, config.loss.reduction)
    total = reduction.total(np.concatenate(packs))
    for at, chosen in enumerate(dealt[dist.get_rank()]):
        numbers = [int(n) for pack in chosen if pack >= 0 for n in packs[pack]]
        engine.micro_step(collate(store, numbers, reduction), 1 / total, at == execution.accumulation - 1)
    found = {n: engine.full_gradient(p).flatten().tolist() for n, p in trainable_parameters(engine.model)}
    found["norm"] = [float(engine.optimizer_step(1e-3))]
    return found


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("engines")
    model = tiny.make_model(folder / "model")
    rows = tiny.write_rows(folder / "rows.jsonl", 60)
    run = tiny.make_run(folder / "run", tiny.trainer_config(model, rows))
    run_on_ranks(prepare_run, 1, str(run), distributed=False)
    return model, rows, run


def prepare_run(run_dir: str) -> dict[str, Any]:
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare

    return prepare(Path(run_dir), read_trainer_config(Path(run_dir)))


def relative(a: list[float], b: list[float]) -> float:
    scale = max(max(map(abs, a)), 1e-12)
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) / scale


@pytest.fixture(scope="module")
def reference(prepared: tuple[Path, Path, Path]) -> dict[str, list[float]]:
    return gradient_of(prepared, "fsdp2", 1, 4)


def gradient_of(prepared: tuple[Path, Path, Path], engine: str, ranks: int, micro_steps: int, **changes: Any) -> Any:
    model, rows, run = prepared
    execution = {"engine": engine, "world_size": ranks, "accumulation": micro_steps}
    config = tiny.trainer_config(model, rows, execution=execution, **changes)
    return run_on_ranks(gradients, ranks, config, str(run))[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("ranks", "micro_steps"), SPLITS)
def test_gradient_does_not_depend_on_the_split(
    prepared: Any, reference: Any, engine: str, ranks: int, micro_steps: int
) -> None:
    found = gradient_of(prepared, engine, ranks, micro_steps)
    assert found.keys() == reference.keys()
    worst = max(relative(reference[name], found[name]) for name in reference)
    assert worst <= 1e-6, {n: relative(reference[n], found[n]) for n in reference}
