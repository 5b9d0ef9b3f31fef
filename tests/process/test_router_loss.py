"""A router's auxiliary loss is the same on every engine and number of ranks, and measured apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_on_ranks
from tests.support.steps import job, prepared_run

MODEL = {
    "family": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.5,
}


def one_step(made: dict[str, str], engine: str, world_size: int) -> Any:
    import torch

    from tests.support.steps import Bench
    from trainer.runtime.collectives import Ranks

    bench = Bench(made, job(made, engine, world_size))
    loss = bench.accumulate(0)
    balance = float(bench.engine.model.take_balance())
    norm = float(bench.engine.optimizer_step(1e-3))
    return [*Ranks().sum(torch.tensor([loss, balance], dtype=torch.float64)).tolist(), norm]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Any]:
    made = prepared_run(tmp_path_factory.mktemp("router"), **MODEL)
    return made, run_on_ranks(one_step, 1, made, "zero0", 1)[0]


@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_two_ranks_have_the_loss_of_one(alone: tuple[dict[str, str], Any], tmp_path: Path, engine: str) -> None:
    made, expected = alone
    for found in run_on_ranks(one_step, 2, made, engine, 2):
        assert found == pytest.approx(expected, rel=1e-4)
    assert expected[1] > 0
