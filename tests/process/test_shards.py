"""Sharded quantised weights: the same bits as whole ones on every engine, a part of the memory, nothing left lying."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.ranks import run_on_ranks
from tests.support.steps import Bench, job, prepared_run
from trainer.config import ENGINES, TrainerConfig

WIDE = {"hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return prepared_run(tmp_path_factory.mktemp("sharded"), **WIDE)


def sharded_job(made: dict[str, str], engine: str, ranks: int, sharded: bool, **changes: Any) -> Any:
    config = job(made, engine, ranks, **changes)
    execution = config.execution.model_copy(update={"shard_quantized": sharded})
    return TrainerConfig.model_validate(config.model_copy(update={"execution": execution}).model_dump())


def steps_of(made: dict[str, str], engines: list[str], ranks: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Losses of some steps and of an evaluation between them, and all that trains, with whole and sharded weights."""
    import hashlib

    from trainer.model.supervised import trainable_parameters

    found: dict[str, Any] = {}
    for engine in engines:
        for sharded in (False, True):
            bench = Bench(made, sharded_job(made, engine, ranks, sharded, **changes))
            losses = [bench.step(0, 1e-2), bench.loss(1), bench.step(0, 1e-2), bench.step(1, 1e-2), bench.accumulate(0)]
            hashed = hashlib.sha256()
            for _, parameter in trainable_parameters(bench.engine.model):
                hashed.update(bench.engine.full_gradient(parameter).float().numpy().tobytes())
            found[f"{engine} {sharded}"] = [*(loss.hex() for loss in losses), hashed.hexdigest()]
    return found


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_same_bits_as_whole_weights(made: dict[str, str], kind: str, ranks: int, checkpointing: bool) -> None:
    changes = {
        "method": {"kind": "lora", "r": 4, "quantization": kind},
        "training": {"gradient_checkpointing": checkpointing},
    }
    engines = list(ENGINES) if (kind, checkpointing) == ("nf4", True) else ["zero0", "fsdp2"]
    every = run_on_ranks(steps_of, ranks, made, engines, ranks, changes)
    for engine in engines:
        for found in every:
            assert found[f"{engine} True"] == found[f"{engine} False"], engine
        assert max(len(set(found[f"{engine} True"])) for found in every) == 6, "losses change from step to step"


def held(made: dict[str, str], ranks: int, kind: str, double: bool) -> dict[str, Any]:
    """What lies in memory before, between and after uses, and how often the next layer was on its way."""
    import torch

    from trainer.model.adapters.quantise import quantised_layers, stored_tensors
    from trainer.model.adapters.quantised_shards import Shard, everything_whole, shard_of

    method = {"kind": "lora", "r": 4, "quantization": kind} | ({} if double else {"double_quantization": False})
    changes = {"method": method, "training": {"gradient_checkpointing": True}}
    whole_bytes = sum(t.nbytes for t in stored_tensors(Bench(made, job(made, "zero1", ranks, **changes)).engine.model))
    fetched, most = [0, 0], 0
    fetch = Shard.fetch

    bench = Bench(made, sharded_job(made, "zero1", ranks, True, **changes))
    shards = [shard_of(layer) for _, layer in quantised_layers(bench.engine.model)]

    def memory() -> int:
        return sum(shard._whole.untyped_storage().nbytes() > 0 for shard in shards)

    def counting(self: Shard) -> None:
        nonlocal most
        fetched[0] += 1
        fetched[1] += self._work is not None
        fetch(self)
        most = max(most, memory())

    between = [memory()]
    bench.step(0, 1e-2)
    between.append(memory())
    Shard.fetch = counting
    bench.step(0, 1e-2)
    Shard.fetch = fetch
    between.append(memory())
    own = sum({t.data_ptr(): t.untyped_storage().nbytes() for t in stored_tensors(bench.engine.model)}.values())
    with everything_whole(bench.engine.model):
        inside = memory()
        finite = all(torch.isfinite(layer.weight.float()).all() for _, layer in quantised_layers(bench.engine.model))
    return {
        "layers": len(shards),
        "share": own / whole_bytes,
        "between": between,
        "most": most,
        "inside": inside,
        "finite": finite,
        "after": memory(),
        "ahead": fetched[1] / (fetched[0] / 2),
    }


@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("nf4", False), ("int8", True)])
def test_a_rank_holds_its_part_and_two_layers_at_most(made: dict[str, str], kind: str, double: bool) -> None:
    for found in run_on_ranks(held, 4, made, 4, kind, double):
        assert found["layers"] == 14
        assert found["between"] == [0, 0, 0]
        assert found["after"] == 0
        assert found["inside"] == 14
        assert found["finite"]
        assert found["most"] == 2, "the layer at work, and the next one"
        assert 0.24 < found["share"] < 0.36, "a quarter, and small scales of scales"
        assert found["ahead"] > 0.9, "after one pass the next layer is always on its way"


def whole_at_once(made: dict[str, str], ranks: int) -> int:
    """Most layers whose packed bytes were there at one time while the model was loaded."""
    from trainer.model.adapters import quantised_shards as module

    alive, most = [], 0
    plain = module.shard_weight

    def watched(layer: Any, weight: Any, shards: Any) -> None:
        nonlocal most
        plain(layer, weight, shards)
        alive.append(layer)
        most = max(most, sum(one.__dict__["shard"]._whole.untyped_storage().nbytes() > 0 for one in alive))

    module.shard_weight = watched
    changes = {"method": {"kind": "lora", "quantization": "nf4"}}
    Bench(made, sharded_job(made, "zero0", ranks, True, **changes))
    assert len(alive) == 14
    return most


def test_loading_never_holds_the_whole(made: dict[str, str]) -> None:
    assert run_on_ranks(whole_at_once, 2, made, 2) == [0, 0]


def test_only_packed_weights_can_be_sharded(made: dict[str, str]) -> None:
    for method in ({"kind": "lora"}, {"kind": "lora", "quantization": "nf4", "use_dora": True}):
        with pytest.raises(ValueError, match="shard_quantized needs"):
            sharded_job(made, "zero0", 2, True, method=method)
