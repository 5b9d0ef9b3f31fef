"""Memory: each formula against numbers worked out by hand, and what must grow or shrink with what."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sizing import trainers
from benchmarks.sizing.layout import PublishedLayout
from launcher.sizing.hardware import Hardware
from launcher.sizing.layout import Adapters
from launcher.sizing.memory import MemoryInput, buffers, peak, phases, states
from launcher.sizing.memory import activations as act
from launcher.sizing.memory.limits import memory_of
from launcher.sizing.shape import ModelShape, shape_by_name, shape_from_config
from launcher.sizing.trainer_model import OUR_BUCKET, TrainerModel, our_trainer
from rundir.quantities import GIB

TINY: ModelShape = shape_from_config(
    {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    }
)
MATRICES = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 96  # of one layer: q, o, k, v, gate, up, down
LAYER = MATRICES + 2 * 64
TOTAL = 2 * LAYER + 2 * 1000 * 64 + 64
PURE = TrainerModel(loss="hf")
LORA = Adapters(r=8, targets=["q_proj", "v_proj"])
ADAPTED = 2 * 8 * (64 + 64 + 64 + 32)


START = MemoryInput(
    shape=TINY, layout=PublishedLayout(micro_batch=2, length=128), trainer=PURE, hardware=Hardware(usable_gib=0)
)


def changed(given: MemoryInput, **changes: Any) -> MemoryInput:
    """The input with some fields of its layout, trainer or hardware changed, whole parts first."""
    parts = {name: changes.pop(name) for name in ("shape", "trainer") if name in changes}
    given = replace(given, **parts)
    for name in ("layout", "trainer", "hardware"):
        part = getattr(given, name)
        own = {field: changes.pop(field) for field in list(changes) if field in part.__dataclass_fields__}
        given = replace(given, **{name: replace(part, **own)})
    assert not changes, f"no such field: {', '.join(changes)}"
    return given


def given(**changes: Any) -> MemoryInput:
    return changed(START, **changes)


def test_pure_bf16_adamw_takes_ten_bytes_a_parameter() -> None:
    parts = next(phase for phase in phases(given()) if phase.name == "step").parts
    assert TINY.num_parameters == TOTAL
    assert [parts[k] for k in ("weights", "gradients", "moments", "step_temporary")] == [
        2 * TOTAL,
        2 * TOTAL,
        4 * TOTAL,
        2 * TOTAL,
    ]


def test_fused_adamw_takes_no_temporary() -> None:
    assert states.step_bytes(given(trainer=replace(PURE, foreach=False))) == 0


def test_fsdp_float32_shards() -> None:
    trainer = replace(PURE, trained_bytes=4)
    four = given(trainer=trainer, engine="fsdp1", ranks=4)
    assert states.weight_bytes(four) + states.moment_bytes(four) + states.gradient_bytes(four) == 16 * TOTAL / 4


@pytest.mark.parametrize(
    ("engine", "weights", "gradients", "states_each", "step"),
    [
        ("zero1", 2, 2, 3, 1),
        ("zero2", 2, 0.5, 3, 1),
        ("zero3", 0.5, 0.5, 3, 1),
    ],
)
def test_zero_stages_over_four(engine: str, weights: float, gradients: float, states_each: float, step: float) -> None:
    four = given(engine=engine, ranks=4, trainer=replace(PURE, master=True))
    assert states.weight_bytes(four) == weights * TOTAL
    assert states.gradient_bytes(four) == gradients * TOTAL
    assert states.moment_bytes(four) + states.master_bytes(four) == states_each * TOTAL
    assert states.step_bytes(four) == step * TOTAL


def test_hybrid_shard_splits_over_its_group_only() -> None:
    assert states.weight_bytes(given(engine="fsdp2", ranks=8, shard_ranks=2)) == 2 * TOTAL / 2


def test_nf4_with_double_quantisation_by_hand() -> None:
    assert states.packed_bytes(64 * 256, "nf4") == 64 * 256 / 2 + 256 + 4
    assert states.packed_bytes(64 * 256, "nf4_plain") == 64 * 256 / 2 + 4 * 256
    assert states.packed_bytes(1000, "int8") == 1000


def test_lora_keeps_a_frozen_base_and_float32_adapters() -> None:
    one = given(adapters=LORA)
    assert states.weight_bytes(one) == 2 * TOTAL + 4 * ADAPTED
    assert states.gradient_bytes(one) == 4 * ADAPTED
    assert states.moment_bytes(one) == 8 * ADAPTED


def test_kbit_preparation_upcasts_what_is_not_packed() -> None:
    plain = given(adapters=LORA, quantization="nf4")
    upcast = changed(plain, trainer=replace(PURE, kbit_upcast=True))
    loose = TOTAL - 2 * MATRICES
    assert states.weight_bytes(upcast) - states.weight_bytes(plain) == 2 * loose


def test_experts_that_are_not_packed_stay_in_two_bytes() -> None:
    shape = shape_by_name("Qwen3-30B-A3B")
    packed = given(shape=shape, adapters=LORA, quantization="nf4")
    loose = changed(packed, trainer=replace(PURE, quantises_experts=False))
    assert states.weight_bytes(packed) < 20e9 < 55e9 < states.weight_bytes(loose)


def test_eight_bit_adam_by_hand() -> None:
    assert states.moment_bytes(given(optimizer="adamw_8bit")) == TOTAL * (2 + 8 / 256)


def test_full_checkpointing_stores_one_hidden_state_per_layer() -> None:
    assert act.stored_bytes(given()) == 2 * 2 * 64
    assert act.stored_bytes(given(trainer=replace(PURE, hidden_fp32=True))) == 2 * 4 * 64


def test_busiest_layer_by_hand() -> None:
    # bf16: norms 2 x 4h, attention 2 (2q + 2k), MLP 12 f, gradients 4h; adapters cast q's and v's input to float32
    h, q, k, f = 64, 64, 32, 96
    lora = 4 * 2 * h + 4 * 8 * 2
    assert act.layer_peak_bytes(given(adapters=LORA)) == 8 * h + 2 * (2 * q + 2 * k) + 12 * f + 4 * h + lora


def test_autocast_keeps_adapter_inputs_in_two_bytes() -> None:
    assert act.adapter_bytes(given(adapters=LORA, trainer=replace(PURE, autocast=True))) == 2 * 2 * 64 + 2 * 8 * 2


def test_adapters_of_two_bytes_share_their_input() -> None:
    trainer = replace(PURE, adapter_bytes=2)
    assert act.adapter_bytes(given(adapters=LORA, trainer=trainer)) == 2 * 64 + 2 * 8 * 2


def test_loss_by_hand() -> None:
    tokens = 256
    assert act.loss_bytes(given(adapters=LORA)) == tokens * (14 * 1000 + 6 * 64)
    chunked = replace(PURE, loss="chunked")
    assert act.loss_bytes(given(adapters=LORA, trainer=chunked, length=4096)) == 12 * 1000 * 2048 + 6 * 64 * 8192


def test_eager_attention_adds_the_scores() -> None:
    difference = act.layer_saved_bytes(given(attention="eager")) - act.layer_saved_bytes(given())
    assert difference == 6 * 4 * 128  # per token: heads x length


def test_fsdp1_holds_inputs_of_frozen_blocks() -> None:
    sharded = given(adapters=LORA, engine="fsdp1", ranks=2)
    assert act.retained_bytes(sharded) == 4 * 2 * 64
    assert act.retained_bytes(changed(sharded, engine="fsdp2")) == 0


def test_gathered_blocks_and_root() -> None:
    root = 2 * (2 * 1000 * 64 + 64)
    assert buffers.gathered_bytes(given(engine="fsdp1", ranks=2), 2) == 2 * 2 * LAYER + root
    assert buffers.gathered_bytes(given(engine="fsdp1", ranks=2, reshards=False), 2) == 2 * TOTAL
    assert buffers.gathered_bytes(given(), 2) == 0


def test_deepspeed_buckets() -> None:
    auto = given(engine="zero2", ranks=2, trainer=replace(PURE, master=True, reduce_bucket=-1))
    assert buffers.reduce_buffer_bytes(auto) == 2 * 64**2 * 2


def test_no_sync_keeps_whole_gradients() -> None:
    four = given(engine="fsdp1", ranks=4, accumulation=2)
    assert states.gradient_bytes(changed(four, unsynchronised=True)) == 4 * states.gradient_bytes(four)


def test_the_peak_is_the_largest_phase_and_its_parts_add_up() -> None:
    found = phases(given())
    names = [phase.name for phase in found]
    assert names == ["load", "loss", "backward", "backward_end", "step", "eval", "save"]
    assert peak(given()).total == max(p.total for p in found if p.name in ("loss", "backward", "backward_end", "step"))
    assert all(phase.total == sum(phase.parts.values()) for phase in found)


def test_fsdp2_reduces_its_root_group_whole() -> None:
    four = given(engine="fsdp2", ranks=4, trainer=replace(PURE, trained_bytes=4, reduce_bytes=4))
    parts = next(phase for phase in phases(four) if phase.name == "backward_root").parts
    root = 2 * 1000 * 64 + 64
    assert (parts["gathered"], parts["root_gradients"], parts["reduce_buffers"]) == (2 * root, 2 * root, 4 * root)


def test_paged_states_leave_when_the_gpu_is_full() -> None:
    shape = shape_by_name("Llama-3.1-8B")
    trainer = trainers.named("torchtune", trainers.TrainingSetup())
    roomy = given(shape=shape, trainer=trainer, optimizer="paged_adamw_8bit", in_backward=True, usable_gib=80)
    assert peak(changed(roomy, usable_gib=22)).total < peak(roomy).total


def ours(model: str = "Llama-3.1-8B", method: str = "full", engine: str = "fsdp2", **changes: Any) -> MemoryInput:
    adapters = None if method == "full" else Adapters()
    values = {"shape": shape_by_name(model), "trainer": our_trainer(engine), "adapters": adapters, "ranks": 8}
    return given(**{**values, "engine": engine, "micro_batch": 1, "length": 2048, "chunk_tokens": 1024, **changes})


ENGINES = ("zero1", "zero2", "zero3", "fsdp1", "fsdp2")


def held(asked: MemoryInput) -> float:
    """Model states of one rank."""
    return (
        states.weight_bytes(asked)
        + states.moment_bytes(asked)
        + states.master_bytes(asked)
        + states.gradient_bytes(asked)
    )


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("engine", ENGINES)
def test_more_gpus_hold_no_more_states_each(engine: str, method: str) -> None:
    sizes = [held(ours(method=method, engine=engine, ranks=gpus)) for gpus in (2, 4, 8, 64, 512)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full", "offload"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_longer_needs_no_less(method: str, checkpointing: str) -> None:
    sizes = [peak(ours(method=method, length=n, checkpointing=checkpointing)).total for n in (512, 2048, 8192, 65536)]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("model", ["Llama-3.2-1B", "Llama-3.1-8B", "Qwen3-30B-A3B", "MPT-7B", "Gemma-2-9B"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_checkpointing_takes_less(model: str, method: str) -> None:
    kinds = ("none", "selective", "full", "offload")
    sizes = [peak(ours(model, method, checkpointing=kind, micro_batch=4)).total for kind in kinds]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("length", [512, 4096, 32768])
def test_full_lora_qlora_take_less_in_this_order(length: int) -> None:
    kinds = ({}, {"method": "lora"}, {"method": "lora", "quantization": "nf4"})
    sizes = [peak(ours("Llama-3.1-70B", ranks=1, length=length, **kind)).total for kind in kinds]  # type: ignore[arg-type]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("axis", ["tp", "pp", "sequence_parallel"])
def test_splitting_the_model_or_the_sequence_takes_less(axis: str) -> None:
    trainer = trainers.named("megatron", trainers.TrainingSetup())
    asked = ours("Llama-3.1-70B", engine="megatron", trainer=trainer, ranks=16, length=8192)
    assert peak(changed(asked, **{axis: 4})).total < peak(asked).total


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp2"])
def test_offload_takes_less(engine: str) -> None:
    assert peak(ours(engine=engine, offload="all")).total < peak(ours(engine=engine)).total


def test_the_three_numbers_are_in_order() -> None:
    memory = memory_of(ours(usable_gib=79.1))
    assert memory.allocated < memory.process <= memory.nvidia_smi <= 79.1
    assert memory.interval[0] < memory.allocated < memory.interval[1]


@pytest.mark.parametrize(
    ("usable", "verdict"), [(1.2, "fits"), (1.06, "tight"), (1.0, "uncertain"), (0.8, "no"), (0, "")]
)
def test_verdicts_by_the_room_that_is_left(usable: float, verdict: str) -> None:
    process = memory_of(ours()).process
    assert memory_of(ours(usable_gib=usable * process)).verdict == verdict


def test_published_extremes() -> None:
    # fms-acceleration, one A100, bf16: 67.46 GiB whatever the batch (10 N); two ranks: 33.74
    mistral = shape_by_name("Mistral-7B-v0.1")
    hf = trainers.named("fms", trainers.TrainingSetup(amp=False))
    one = given(shape=mistral, trainer=hf, micro_batch=4, length=4096)
    assert peak(one).total / GIB == pytest.approx(67.46, rel=0.002)
    assert peak(changed(one, engine="fsdp1", ranks=2)).total / GIB == pytest.approx(33.74, rel=0.002)


def test_our_bucket_of_gradients_is_the_trainers() -> None:
    """Its module needs torch, so the number is read from its text."""
    source = (Path(__file__).parents[4] / "trainer" / "engines" / "zero.py").read_text()
    found = re.search(r"^LARGEST_BUCKET = ([\d_]+)", source, re.M)
    assert found and int(found[1]) == OUR_BUCKET
