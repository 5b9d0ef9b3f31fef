"""The speed model: parts that add up, physics that holds, refusals, and the bill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.errors import JobError
from launcher.sizing.gpus import find_gpu
from launcher.sizing.shape import shape_by_name
from launcher.sizing.speed.cost import bill
from launcher.sizing.speed.kernels import product_seconds, rates_of
from launcher.sizing.speed.layout import SpeedLayout
from launcher.sizing.speed.links import Group, exposed, group
from launcher.sizing.speed.predict import predict_speed
from launcher.sizing.speed.work import model_flops, work_of

H100 = find_gpu("H100-80")
LLAMA = shape_by_name("llama-3.1-8b")
ONE = SpeedLayout(gpu=H100, micro_batch=2, length=4096)
EIGHT = replace(ONE, num_gpus=8, sharding="fsdp")


def rate(layout: SpeedLayout, model: str = "llama-3.1-8b") -> float:
    return predict_speed(shape_by_name(model), layout).tokens_per_gpu


def test_parts_add_up_to_the_step() -> None:
    layout = replace(EIGHT, pp=2, tp=2, accumulation=8, recompute="full", offload="optimizer", quantization="nf4")
    speed = predict_speed(LLAMA, layout)
    assert sum(speed.parts.values()) == pytest.approx(speed.step_seconds)
    tokens = layout.data_ranks * layout.accumulation * layout.micro_batch * layout.length
    assert speed.tokens_per_second * speed.step_seconds == pytest.approx(tokens)
    assert speed.low < speed.tokens_per_gpu < speed.high


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
    speed = predict_speed(LLAMA, replace(ONE, gpu=found, stack="megatron", micro_batch=16))
    assert 0.1 < speed.mfu < found.matmul[found.half] / found.tflops[found.half]


def test_what_must_be_slower_is_slower() -> None:
    base = rate(EIGHT)
    assert rate(replace(EIGHT, recompute="full")) < rate(replace(EIGHT, recompute="selective")) < base
    assert rate(replace(EIGHT, attention="eager")) < base
    assert rate(replace(EIGHT, sharding="fsdp", offload="parameters")) < base
    assert rate(replace(EIGHT, micro_batch=1, length=256)) < base
    assert rate(replace(EIGHT, num_gpus=64)) < base
    assert rate(replace(EIGHT, tp=8)) < base
    assert rate(replace(EIGHT, pp=4, accumulation=4)) < rate(replace(EIGHT, pp=4, accumulation=64))
    assert rate(replace(EIGHT, length=32_768, micro_batch=1)) < base
    assert rate(replace(EIGHT, fill=0.5)) == pytest.approx(base / 2)


def test_what_must_be_faster_is_faster() -> None:
    base = rate(EIGHT)
    assert rate(replace(EIGHT, stack="fused")) > base
    assert rate(replace(EIGHT, stack="compiled")) > base
    assert rate(replace(EIGHT, number_format="fp8", stack="compiled")) > rate(replace(EIGHT, stack="compiled"))
    assert rate(replace(EIGHT, trained=False, adapted="all", stack="unsloth")) > rate(replace(EIGHT, stack="unsloth"))
    assert rate(replace(EIGHT, length=32_768, micro_batch=1, attended=1024)) > rate(
        replace(EIGHT, length=32_768, micro_batch=1)
    )
    assert rate(replace(EIGHT, gpu=find_gpu("H200"))) > base


def test_unpacking_weights_costs_most_for_few_tokens() -> None:
    lora = replace(ONE, trained=False, adapted="all")
    few, many = (replace(lora, micro_batch=1, length=512), replace(lora, micro_batch=16, length=4096))
    loss = [1 - rate(replace(layout, quantization="nf4")) / rate(layout) for layout in (few, many)]
    assert loss[0] > 0.1 > 0.03 > loss[1]


def test_small_models_wait_for_the_host() -> None:
    layout = SpeedLayout(gpu=H100, micro_batch=1, length=128)
    parts = predict_speed(shape_by_name("smollm2-135m"), layout).parts
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
        ({"num_gpus": 6, "tp": 4}, "no multiple"),
        ({"length": 1 << 40}, "beyond reason"),
        ({"micro_batch": 0}, "at least 1"),
        ({"fill": 0.0}, "fill"),
    ],
)
def test_impossible_layouts_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(JobError, match=message):
        predict_speed(LLAMA, replace(ONE, **changes))  # type: ignore[arg-type]


def test_the_bill() -> None:
    speed = predict_speed(LLAMA, EIGHT)
    made = bill(speed, EIGHT, 1_000_000_000, walltime_hours=1.2)
    assert made.hours == pytest.approx(1e9 / speed.tokens_per_second / 3600)
    assert made.gpu_hours == pytest.approx(8 * made.hours)
    assert made.cost == pytest.approx(made.gpu_hours * (H100.price or 0))
    assert H100.price_date in made.price_note
    assert made.slices == -(-made.hours // 1)
    assert made.hours_interval[0] < made.hours < made.hours_interval[1]


def test_the_bill_without_a_price_and_without_time() -> None:
    layout = replace(EIGHT, gpu=find_gpu("B300"))
    speed = predict_speed(LLAMA, layout)
    assert bill(speed, layout, 10**6).cost is None
    with pytest.raises(JobError, match="no time to train"):
        bill(speed, layout, 10**6, walltime_hours=0.1)
    with pytest.raises(JobError, match="nothing to train"):
        bill(speed, layout, 0)
