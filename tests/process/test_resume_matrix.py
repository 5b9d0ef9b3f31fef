"""Every checkpoint loads everywhere: each engine on 1, 2 and 4 ranks reads what each engine on 1, 2 and 4 ranks wrote.

Per method 15 layouts write and 15 read: 225 pairs, bit for bit. Engines are built one after the other in the same
ranks, so that a layout costs an engine and not a start.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.ranks import run_on_ranks
from tests.support.steps import Bench, job, prepared_run
from trainer.config import ENGINES

WORLD_SIZES = (1, 2, 4)
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4},
    "qlora": {"kind": "lora", "r": 4, "quantization": "nf4"},
}
LAYOUTS = [(engine, ranks) for ranks in WORLD_SIZES for engine in ENGINES]
NEXT_RATE = 1e-3
GO_ON_EVERY = 5  # a reader trains on from 3 of the 15 checkpoints, so that every writer is gone on from by 3 readers


def steps_of(ranks: int) -> int:
    """Steps before the save: not the same for all, so that a step count that is left over shows."""
    return 2 + WORLD_SIZES.index(ranks)


def save_all(made: dict[str, str], folder: str, method: dict[str, Any], ranks: int) -> int:
    """Every engine on this number of ranks trains at a rate of its own, saves, and goes on for one step."""
    import torch.distributed as dist
    from safetensors.torch import save_file

    for engine in ENGINES:
        bench = Bench(made, job(made, engine, ranks, method=method))
        for number in range(steps_of(ranks)):
            bench.step(number, 1e-3 * (1 + LAYOUTS.index((engine, ranks))))
        place = Path(folder) / f"{engine}-{ranks}"
        save(bench, place, steps_of(ranks))
        state = WholeState(bench.engine)
        truth = state.gather()
        truth |= next_step(bench, state)
        if dist.get_rank() == 0:
            save_file(truth, place / "truth.safetensors")
    return len(ENGINES)


def save(bench: Any, place: Path, step: int) -> None:
    from trainer.checkpoint.format.manifest import Manifest

    kind = bench.config.execution
    manifest = Manifest(
        step=step,
        attempt=0,
        engine=kind.engine,
        world_size=kind.world_size,
        counters={},
        data={},
        trainer=bench.config.model_dump(mode="json"),
        receipt={},
        shapes={},
    )
    checkpoints = store(place)
    assert checkpoints.finish(checkpoints.start(bench.engine, manifest)).folder is not None


def store(place: Path) -> Any:
    from trainer.checkpoint.store import CheckpointStore
    from trainer.runtime.collectives import Ranks

    place.mkdir(parents=True, exist_ok=True)
    return CheckpointStore(place, Ranks(), keep=9, report=print)


class WholeState:
    """Puts every tensor and moment together from the ranges of all ranks; elements that no rank holds stay NaN."""

    def __init__(self, engine: Any) -> None:
        from trainer.runtime.collectives import Ranks

        self._engine = engine
        mine = [(f"{r.kind}/{r.tensor}", r.start, math.prod(r.shape), r.view.numel()) for r in engine.ranges()]
        self._places = Ranks().gather(mine)

    def gather(self) -> dict[str, Any]:
        import torch
        import torch.distributed as dist

        sizes = [sum(length for *_, length in places) for places in self._places]
        mine = torch.zeros(max(sizes))
        views = [r.view for r in self._engine.ranges()]
        torch.cat(views, out=mine[: sum(map(len, views))])
        parts = [torch.empty_like(mine) for _ in sizes]
        dist.all_gather(parts, mine)
        whole: dict[str, Any] = {}
        for places, part in zip(self._places, parts, strict=True):
            at = 0
            for name, start, total, length in places:
                flat = whole.setdefault(name, torch.full((total,), math.nan))
                flat[start : start + length] = part[at : at + length]
                at += length
        return whole


def next_step(bench: Any, state: WholeState) -> dict[str, Any]:
    """The parameters after one more step: they show whether weights, moments and step count took effect."""
    bench.step(9, NEXT_RATE)
    return {f"next/{name}": value for name, value in state.gather().items() if name.startswith("param/")}


def load_all(made: dict[str, str], folder: str, method: dict[str, Any], ranks: int) -> list[str]:
    """Every engine on this number of ranks reads all checkpoints; says what it read otherwise than it was written."""
    wrong = []
    for engine in ENGINES:
        bench = Bench(made, job(made, engine, ranks, method=method))
        state = WholeState(bench.engine)
        for number, writer in enumerate(LAYOUTS):
            place = Path(folder) / f"{writer[0]}-{writer[1]}"
            found = differences(bench, state, place, steps_of(writer[1]))
            if number % GO_ON_EVERY == LAYOUTS.index((engine, ranks)) % GO_ON_EVERY:
                found += differences_after(bench, state, place)
            wrong += [f"{writer} -> {(engine, ranks)}: {what}" for what in found]
    return wrong


def differences(bench: Any, state: WholeState, place: Path, step: int) -> list[str]:
    """Load the checkpoint; what is not, to the bit, what its writer held."""
    from safetensors.torch import load_file

    from trainer.checkpoint.format.manifest import published, verified

    for held in bench.engine.ranges():
        held.view.fill_(math.nan)  # whatever is not loaded shows
    ((_, folder),) = published(place)
    manifest = verified(folder)
    store(place).load(bench.engine, folder, manifest)
    loaded, truth = state.gather(), load_file(place / "truth.safetensors")
    expected = {name: value for name, value in truth.items() if not name.startswith("next/")}
    wrong = [name for name in expected.keys() | loaded.keys() if not same(loaded.get(name), expected.get(name))]
    taken = steps_in_optimizer(bench.engine)
    return wrong + ([f"steps {taken}, {manifest.step}"] if taken != {step} or manifest.step != step else [])


def differences_after(bench: Any, state: WholeState, place: Path) -> list[str]:
    """Take the writer's next step; the parameters that end elsewhere."""
    import torch
    from safetensors.torch import load_file

    truth = load_file(place / "truth.safetensors")
    found = next_step(bench, state)
    return [name for name, value in found.items() if not torch.allclose(value, truth[name], rtol=1e-4, atol=1e-6)]


def same(a: Any, b: Any) -> bool:
    import torch

    return a is not None and b is not None and torch.equal(a, b)


def steps_in_optimizer(engine: Any) -> set[float]:
    optimizer = engine.optimizer if hasattr(engine, "optimizer") else engine._adamw
    return {float(state["step"]) for state in optimizer.state.values()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return prepared_run(tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("method", METHODS)
def test_every_layout_loads_what_every_layout_saved(made: dict[str, str], tmp_path: Path, method: str) -> None:
    for ranks in WORLD_SIZES:
        assert run_on_ranks(save_all, ranks, made, str(tmp_path), METHODS[method], ranks) == [len(ENGINES)] * ranks
    for ranks in WORLD_SIZES:
        for wrong in run_on_ranks(load_all, ranks, made, str(tmp_path), METHODS[method], ranks):
            assert not wrong


NORMS = "model.layers.*.input_layernorm.weight"


def resume_with_less(made: dict[str, str], folder: str) -> list[list[str]]:
    """Save while all is trained; load where the layers' norms are kept as they are, then where one is not there."""
    from trainer.checkpoint.format.manifest import published
    from trainer.errors import UserError

    told: list[list[str]] = []
    for engine in ("fsdp2", "zero1", "zero3"):
        place, config = Path(folder) / engine, job(made, engine, 1)
        bench = Bench(made, config)
        bench.step(0, 1e-3)
        save(bench, place, 1)
        less = without_norms(made, config)
        found = store(place).restore(less.engine, lambda *_: None)
        assert found is not None
        layer = less.engine.model.causal_lm.get_submodule("model.layers.0.input_layernorm")
        layer.register_parameter("other", layer._parameters.pop("weight"))
        try:
            store(place).restore(less.engine, lambda *_: None)
        except UserError as error:
            told.append([found[0].name, error.message, *(path.name for _, path in published(place))])
    return told


def without_norms(made: dict[str, str], config: Any) -> Bench:
    from trainer.model import build

    real = build.freeze_unused
    build.freeze_unused = lambda model, patterns: real(model, [NORMS])
    try:
        return Bench(made, config)
    finally:
        build.freeze_unused = real


def test_a_checkpoint_of_more_than_is_trained_now_is_loaded_and_one_of_others_is_not_set_aside(
    made: dict[str, str], tmp_path: Path
) -> None:
    strange = "the checkpoint holds 1 tensors that the model does not train: model.layers.0.input_layernorm.weight"
    (told,) = run_on_ranks(resume_with_less, 1, made, str(tmp_path))
    assert told == [["step-00000001", strange, "step-00000001"]] * 3
