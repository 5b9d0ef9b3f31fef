"""Only the first rank reads a model's weights; what the ranks train is bit for bit what they would have read."""

from __future__ import annotations

import contextlib
import gc
import importlib
from pathlib import Path
from typing import Any

import pytest

from launcher import estimate
from launcher.sizing.shape import shape_of_folder
from tests.support import tiny
from tests.support.ranks import RankFailedError, run_on_ranks
from tests.support.steps import Bench, job, prepared_run
from trainer.config import ENGINES

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma": {"head_dim": 16, "tie_word_embeddings": True},
    "qwen2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_neox": {"tie_word_embeddings": True},
}
LORA = {"kind": "lora", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "lora": LORA,
    "dora": LORA | {"use_dora": True, "bias": "all"},
    "head": LORA | {"modules_to_save": ["lm_head"]},
}


def both_ways(made: dict[str, str], engines: list[str], ranks: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Losses of three steps on each engine, with shared weights and with weights read everywhere; who read them."""
    import trainer.model.build as build
    import trainer.model.sharing as sharing

    reads: list[str] = []
    read = build.load_causal_lm
    build.load_causal_lm = lambda *given, **named: reads.append("weights") or read(*given, **named)
    shared, found = sharing.build_shared_model, {}
    for engine in engines:
        for way, make in (("shared", shared), ("everywhere", lambda config, ranks: build.build_model(config))):
            reads.clear()
            sharing.build_shared_model = make
            bench = Bench(made, job(made, engine, ranks, **changes))
            losses = [bench.step(number, 1e-2) for number in range(3)]
            found[f"{engine} {way}"] = {"losses": losses, "reads": len(reads)}
    return found


def check(made: dict[str, str], engines: list[str], ranks: int = 2, **changes: Any) -> None:
    everyone = run_on_ranks(both_ways, ranks, made, engines, ranks, changes)
    for engine in engines:
        assert [one[f"{engine} shared"]["reads"] for one in everyone] == [1] + [0] * (ranks - 1), engine
        assert all(one[f"{engine} everywhere"]["reads"] == 1 for one in everyone)
        for one in everyone:
            assert one[f"{engine} shared"]["losses"] == one[f"{engine} everywhere"]["losses"], engine


@pytest.mark.parametrize("family", MODELS)
def test_full_training_is_the_same_on_every_engine(tmp_path: Path, family: str) -> None:
    check(prepared_run(tmp_path, family=family, **MODELS[family]), list(ENGINES))


@pytest.mark.parametrize("method", ["lora", "dora", "head"])
def test_adapters_are_the_same_on_every_engine(tmp_path: Path, method: str) -> None:
    check(prepared_run(tmp_path, attention_bias=True), list(ENGINES), method=METHODS[method])


@pytest.mark.parametrize("method", ["full", "lora"])
def test_bfloat16_is_the_same(tmp_path: Path, method: str) -> None:
    engines = ["zero1", "zero3", "fsdp2"]
    check(prepared_run(tmp_path), engines, method=METHODS[method], model={"dtype": "bfloat16"})


def test_rows_that_do_not_divide_by_the_ranks(tmp_path: Path) -> None:
    made = prepared_run(tmp_path, hidden_size=36, intermediate_size=58, num_attention_heads=3, num_key_value_heads=3)
    check(made, ["zero3", "fsdp2"], ranks=4)


class MeasuredError(Exception):
    """Raised where weights have been handed out and nothing else has been allocated yet."""


def peaks(made: dict[str, str], engine: str, ranks: int) -> float:
    """This rank's resident memory while weights are read and handed out, at its highest, over the model's size."""
    module = importlib.import_module("trainer.engines.fsdp2" if engine == "fsdp2" else "trainer.engines.zero")
    model_bytes = Path(made["model"], "model.safetensors").stat().st_size
    Bench(made, job(made, engine, ranks))  # what libraries keep for themselves
    gc.collect()

    def measure(*_: Any) -> None:
        raise MeasuredError

    module.parameter_groups = measure  # type: ignore[attr-defined]
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    with contextlib.suppress(MeasuredError):
        Bench(made, job(made, engine, ranks))
    return (memory("VmHWM") - before) / model_bytes


def memory(what: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("engine", ["zero3", "fsdp2"])
def test_no_other_rank_ever_holds_the_model(tmp_path: Path, engine: str) -> None:
    """Beside its half, a rank holds one layer of twelve, or one tensor, at a time."""
    made = prepared_run(tmp_path, hidden_size=512, intermediate_size=2048, num_hidden_layers=12)
    first, other = run_on_ranks(peaks, 2, made, engine, 2)
    assert other < 0.75, (first, other)
    assert first > other


def counted(made: dict[str, str], engine: str, ranks: int) -> int:
    """Bytes of all tensors that live on this rank while weights are handed out, at their most."""
    from trainer.measure.allocation_counter import Allocations

    module = importlib.import_module("trainer.engines.fsdp2" if engine == "fsdp2" else "trainer.engines.zero")
    Bench(made, job(made, engine, ranks))  # what libraries keep for themselves

    def measure(*_: Any) -> None:
        raise MeasuredError

    module.parameter_groups = measure  # type: ignore[attr-defined]
    with Allocations() as allocations, contextlib.suppress(MeasuredError):
        Bench(made, job(made, engine, ranks))
    return allocations.peak


@pytest.mark.parametrize("engine", ["zero1", "zero3", "fsdp2"])
def test_loading_takes_what_is_predicted(tmp_path: Path, engine: str) -> None:
    """The memory model's phase `load`, of a rank that is handed its weights; float32, as the CPU trains."""
    changes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    made = prepared_run(tmp_path, **changes)
    shape = shape_of_folder(Path(made["model"]))
    said = estimate(shape, "full", 2, engine=engine, dtype="float32").memory.phases
    load = next(phase.total for phase in said if phase.name == "load")
    _, other = run_on_ranks(counted, 2, made, engine, 2)
    assert other == pytest.approx(load, rel=0.1)


def fails(made: dict[str, str], engine: str) -> str:
    from trainer.errors import UserError

    try:
        Bench(made, job(made, engine, 2))
    except UserError as error:
        return error.message
    return ""


def test_what_the_first_rank_cannot_read_is_told_by_all(tmp_path: Path) -> None:
    made = prepared_run(tmp_path)
    Path(made["model"], "model.safetensors").write_bytes(b"no weights")
    told = run_on_ranks(fails, 2, made, "fsdp2")
    assert told[0] == told[1] != ""
    assert made["model"] in told[0]


def test_a_configuration_of_another_model_is_refused(tmp_path: Path) -> None:
    made = prepared_run(tmp_path, num_hidden_layers=3)
    other = tiny.make_model(tmp_path / "other", num_hidden_layers=2)
    Path(made["model"], "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    try:
        told = run_on_ranks(fails, 2, made, "zero1")
    except RankFailedError as error:  # Transformers fills what is missing with noise in some versions
        pytest.fail(str(error))
    assert told[0] == told[1]


def loads_everywhere(made: dict[str, str]) -> dict[str, Any]:
    """A model that keeps a tensor where nobody looks for one, so that a skeleton would lack its numbers."""
    import torch
    from transformers.models.llama import modeling_llama

    plain = modeling_llama.LlamaRMSNorm.__init__

    def with_loose_tensor(self: Any, *given: Any, **named: Any) -> None:
        plain(self, *given, **named)
        self.loose = torch.ones(1)

    modeling_llama.LlamaRMSNorm.__init__ = with_loose_tensor
    bench = Bench(made, job(made, "fsdp2", 2))
    return {"shared": bench.engine.model.shared, "loss": bench.step(0, 1e-2)}


def test_a_model_that_cannot_be_built_without_weights_is_read_by_every_rank(tmp_path: Path) -> None:
    found = run_on_ranks(loads_everywhere, 2, prepared_run(tmp_path))
    assert [one["shared"] for one in found] == [False, False]
    assert found[0]["loss"] > 0
