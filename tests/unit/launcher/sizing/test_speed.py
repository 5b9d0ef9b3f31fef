"""The speed model: parts that add up, physics that holds, refusals, and the bill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.sizing.layout import PublishedLayout
from launcher.errors import JobError
from launcher.sizing.gpus import Gpu, find_gpu
from launcher.sizing.hardware import on_gpu
from launcher.sizing.layout import Adapters
from launcher.sizing.shape import shape_by_name
from launcher.sizing.speed.cost import bill
from launcher.sizing.speed.kernels import product_seconds, rates_of
from launcher.sizing.speed.links import Group, exposed, group
from launcher.sizing.speed.predict import Speed, predict_speed
from launcher.sizing.speed.work import model_flops, work_of
from launcher.sizing.trainer_model import TrainerModel

H100 = find_gpu("H100-80")
LLAMA = shape_by_name("llama-3.1-8b")
ONE = PublishedLayout(micro_batch=2, length=4096, checkpointing="none")
EIGHT = replace(ONE, ranks=8, engine="fsdp2")
FUSED_ADAMW = TrainerModel(foreach=False)


def speed(
    layout: PublishedLayout = EIGHT, gpu: Gpu = H100, model: str = "llama-3.1-8b", fill: float = 1.0, **changes: Any
) -> Speed:
    """The speed of a layout, with some of its fields changed, or of a trainer's that is plain otherwise."""
    known = PublishedLayout.__dataclass_fields__
    laid = replace(layout, **{name: value for name, value in changes.items() if name in known})
    trainer = replace(FUSED_ADAMW, **{name: value for name, value in changes.items() if name in HABITS})
    length = changes.get("document_length", 0.0)
    return predict_speed(shape_by_name(model), laid, on_gpu(gpu), trainer, fill=fill, document_length=length)


HABITS = TrainerModel.__dataclass_fields__


def rate(layout: PublishedLayout = EIGHT, **changes: Any) -> float:
    return speed(layout, **changes).tokens_per_gpu


def test_parts_add_up_to_the_step() -> None:
    packed = {"offload": "optimizer", "quantization": "nf4"}
    layout = replace(EIGHT, pp=2, tp=2, accumulation=8, checkpointing="full", **packed)
    found = speed(layout)
    assert sum(found.parts.values()) == pytest.approx(found.step_seconds)
    tokens = layout.data_ranks * layout.accumulation * layout.micro_batch * layout.length
    assert found.tokens_per_second * found.step_seconds == pytest.approx(tokens)
    assert found.low < found.tokens_per_gpu < found.high


def test_flops_are_six_n_and_four_n() -> None:
    work = work_of(LLAMA)
    full, lora = (model_flops(work, trained=trained, attended=0) for trained in (True, False))
    assert full == 6 * work.active_parameters
    assert lora == 4 * work.active_parameters
    assert work.active_parameters == pytest.approx(LLAMA.num_parameters - work.vocab * work.hidden, rel=1e-3)


def test_a_mixture_counts_the_experts_that_a_token_visits() -> None:
    work = work_of(shape_by_name("mixtral-8x7b"))
    assert (work.experts, work.active) == (8, 2)
    assert work.parameters == pytest.approx(46_702_792_704, rel=1e-3)
    assert work.active_parameters == pytest.approx(12_879_925_248 - work.vocab * work.hidden, rel=1e-3)


@pytest.mark.parametrize("gpu", ["T4", "L40S", "A100-80", "H100", "H200", "B200", "MI300X"])
def test_never_faster_than_the_matrix_units(gpu: str) -> None:
    found = find_gpu(gpu)
    mfu = speed(ONE, gpu=found, stack="megatron", micro_batch=16).mfu
    assert 0.1 < mfu < found.matmul[found.half] / found.tflops[found.half]


def test_what_must_be_slower_is_slower() -> None:
    base = rate()
    assert rate(checkpointing="full") < rate(checkpointing="selective") < base
    assert rate(attention="eager") < base
    assert rate(engine="fsdp2", offload="all") < base
    assert rate(micro_batch=1, length=256) < base
    assert rate(ranks=64) < base
    assert rate(tp=8) < base
    assert rate(pp=4, accumulation=4) < rate(pp=4, accumulation=64)
    assert rate(length=32_768, micro_batch=1) < base
    assert rate(fill=0.5) == pytest.approx(base / 2)


def test_what_must_be_faster_is_faster() -> None:
    base = rate()
    assert rate(stack="fused") > base
    assert rate(stack="compiled") > base
    assert rate(number_format="fp8", stack="compiled") > rate(stack="compiled")
    assert rate(adapters=Adapters(), stack="unsloth") > rate(stack="unsloth")
    assert rate(length=32_768, micro_batch=1, document_length=1024) > rate(length=32_768, micro_batch=1)
    assert rate(gpu=find_gpu("H200")) > base


def test_unpacking_weights_costs_most_for_few_tokens() -> None:
    lora = replace(ONE, adapters=Adapters())
    few, many = (replace(lora, micro_batch=1, length=512), replace(lora, micro_batch=16, length=4096))
    loss = [1 - rate(layout, quantization="nf4") / rate(layout) for layout in (few, many)]
    assert loss[0] > 0.1 > 0.03 > loss[1]


def test_small_models_wait_for_the_host() -> None:
    parts = speed(PublishedLayout(length=128, checkpointing="none"), model="smollm2-135m").parts
    assert parts["host"] > parts["matrix products"]


def test_products_follow_a_soft_roofline() -> None:
    rates = rates_of(H100, "bf16", "flash")
    seconds = [product_seconds(rates.dense, rates.memory, tokens, 4096, 4096) for tokens in (1, 64, 65_536)]
    assert seconds[0] == pytest.approx(2 * 4096 * 4096 / rates.memory, rel=0.05)
    assert seconds[1] < 1.5 * seconds[0]
    assert seconds[2] == pytest.approx(2 * 65_536 * 4096**2 / rates.dense, rel=0.25)


def test_collectives_by_link() -> None:
    inside, across = group(H100, 8, 1, 8), group(H100, 16, 1, 8)
    size = 16e9
    assert inside.gather(size) < across.gather(size)
    assert inside.reduce(size) == pytest.approx(2 * inside.gather(size))
    assert Group(ranks=1, per_node=8, link=1.0, network=1.0).gather(size) == 0
    slow = group(find_gpu("4090"), 4, 1, 4)
    assert slow.gather(size) > 5 * group(H100, 4, 1, 8).gather(size)
    assert exposed(1.0, 10.0, 0.8) == pytest.approx(0.2)
    assert exposed(1.0, 0.0, 0.8) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 6, "tp": 4}, "no multiple"),
        ({"length": 1 << 40}, "beyond reason"),
        ({"micro_batch": 0}, "at least 1"),
        ({"fill": 0.0}, "fill"),
    ],
)
def test_impossible_layouts_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(JobError, match=message):
        speed(ONE, **changes)


def test_the_bill() -> None:
    found = speed()
    made = bill(found, EIGHT, H100, 1_000_000_000, walltime_hours=1.2)
    assert made.hours == pytest.approx(1e9 / found.tokens_per_second / 3600)
    assert made.gpu_hours == pytest.approx(8 * made.hours)
    assert made.cost == pytest.approx(made.gpu_hours * (H100.price or 0))
    assert H100.price_date in made.price_note
    assert made.slices == -(-made.hours // 1)
    assert made.hours_interval[0] < made.hours < made.hours_interval[1]


def test_the_bill_without_a_price_and_without_time() -> None:
    gpu = find_gpu("B300")
    found = speed(gpu=gpu)
    assert bill(found, EIGHT, gpu, 10**6).cost is None
    with pytest.raises(JobError, match="no time to train"):
        bill(found, EIGHT, gpu, 10**6, walltime_hours=0.1)
    with pytest.raises(JobError, match="nothing to train"):
        bill(found, EIGHT, gpu, 0)
