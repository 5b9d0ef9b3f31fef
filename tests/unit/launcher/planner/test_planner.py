"""Plans: exact division, reasons, what is turned down and why, and memory that adds up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_samples import GOOD_JOB, write_model

from launcher.errors import JobError, MachineError
from launcher.jobfile import JobFile, SettingError, load_job
from launcher.planner.layouts.gpu_candidate import predicted
from launcher.planner.plan import Plan, make_plan
from launcher.planner.settings.defaults import decide_step_layout
from launcher.site.hardware import Machine
from launcher.sizing.hardware import CPU, Hardware
from launcher.sizing.layout import Adapters, ParallelLayout
from launcher.sizing.memory import MemoryInput
from launcher.sizing.prediction import Prediction
from launcher.sizing.shape import find_model, shape_by_name, shape_from_config
from launcher.sizing.trainer_model import our_trainer
from rundir.quantities import GIB
from trainer.config import DECIDED_WHILE_RUNNING, ENGINES, TrainerConfig, unresolved

LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.fixture
def job(write_job: Callable[..., Path]) -> Callable[..., JobFile]:
    """A checked job: a good one with some settings of some sections replaced."""

    def make(**sections: dict[str, object]) -> JobFile:
        loaded = load_job(write_job(GOOD_JOB)).job.model_dump(exclude_unset=True)
        return JobFile.model_validate(loaded | {s: loaded.get(s, {}) | v for s, v in sections.items()})

    return make


def execution(plan: Plan) -> dict[str, object]:
    return plan.trainer.execution.model_dump()


def reason(plan: Plan, setting: str) -> str:
    return next(d.reason for d in plan.decisions if d.setting == setting)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("tokens", [8192, 16384, 24576, "auto"])
def test_every_plan_divides_the_step_exactly(job, ranks: int, tokens: object) -> None:
    large = Machine(num_cores=16, memory_bytes=64 * GIB)
    plan = make_plan(job(resources={"cpu_ranks": ranks}, training={"tokens_per_step": tokens}), large)
    found = plan.trainer.execution
    assert found.world_size * found.micro_batch * found.accumulation == found.packs_per_step
    assert found.packs_per_step * 512 == plan.trainer.training.tokens_per_step
    for rejected in plan.choice.rejected:
        other = rejected.candidate
        assert ranks * other.layout.micro_batch * other.layout.accumulation == found.packs_per_step


def test_the_step_does_not_depend_on_the_engine(job, cpu_machine) -> None:
    plans = [make_plan(job(resources={"engine": engine}), cpu_machine) for engine in ENGINES]
    assert {plan.trainer.execution.packs_per_step for plan in plans} == {16}
    assert [plan.trainer.execution.engine for plan in plans] == list(ENGINES)


@pytest.mark.parametrize(
    ("tokens", "nearest"),
    [(8000, "7168 or 8192"), (512, "1024 or 2048"), (100, "1024 or 2048"), (1536, "1024 or 2048")],
)
def test_a_step_that_does_not_divide_names_two_that_do(job, cpu_machine, tokens: int, nearest: str) -> None:
    with pytest.raises(SettingError) as caught:
        make_plan(job(training={"tokens_per_step": tokens}), cpu_machine)
    assert caught.value.setting == "training.tokens_per_step"
    assert "2 x 512 = 1024" in str(caught.value)
    assert caught.value.remedy == f"Nearest: {nearest}."
    for value in nearest.split(" or "):
        assert make_plan(job(training={"tokens_per_step": int(value)}), cpu_machine)


def test_planning_errors_have_the_line_of_their_setting(write_job, cpu_machine) -> None:
    loaded = load_job(write_job(old="8192", new="8000"))
    with pytest.raises(SettingError) as caught:
        make_plan(loaded.job, cpu_machine)
    assert str(loaded.located(caught.value)) == (
        f"{loaded.path}:6: training.tokens_per_step: must be a multiple of ranks x max_length = 2 x 512 = 1024 "
        "(got 8000). Nearest: 7168 or 8192."
    )


def test_a_micro_batch_must_divide_what_a_rank_has(job, cpu_machine) -> None:
    with pytest.raises(SettingError, match="must divide the 8 packs") as caught:
        make_plan(job(resources={"micro_batch": 3}), cpu_machine)
    assert caught.value.remedy == "Nearest: 2 or 4."


def test_automatic_ranks_give_way_to_an_exact_step(job, cpu_machine) -> None:
    plan = make_plan(job(resources={"cpu_ranks": "auto"}, training={"tokens_per_step": 1536}), cpu_machine)
    assert plan.trainer.execution.world_size == 1
    assert "divides a step exactly" in reason(plan, "resources.cpu_ranks")


def test_nothing_is_left_automatic_and_every_decision_has_a_reason(job, cpu_machine) -> None:
    plan = make_plan(job(), cpu_machine)
    written = TrainerConfig.model_validate(plan.as_json()["trainer"])
    assert sorted(unresolved(written)) == sorted(DECIDED_WHILE_RUNNING)
    assert all(decision.reason and decision.value is not None for decision in plan.decisions)
    settings = {decision.setting for decision in plan.decisions}
    assert {"training.learning_rate", "resources.engine", "resources.micro_batch", "model.attention"} <= settings


def test_what_is_said_is_not_decided(job, cpu_machine) -> None:
    said = {"resources": {"engine": "zero2", "micro_batch": 2}, "training": {"learning_rate": 0.5}}
    plan = make_plan(job(**said), cpu_machine)
    assert not {"resources.engine", "resources.micro_batch", "training.learning_rate"} & {
        d.setting for d in plan.decisions
    }
    assert (plan.trainer.training.learning_rate, plan.trainer.execution.accumulation) == (0.5, 4)


@pytest.mark.parametrize(("kind", "rate"), [("full", 5e-5), ("lora", 2e-4)])
def test_learning_rate_by_method(job, cpu_machine, kind: str, rate: float) -> None:
    plan = make_plan(job(method={"kind": kind}), cpu_machine)
    assert plan.trainer.training.learning_rate == rate
    assert "parameters" in reason(plan, "training.learning_rate")


@pytest.mark.parametrize(
    ("model", "kind", "rate"),
    [
        ("meta-llama/Llama-3.1-70B", "full", 5e-6),
        ("meta-llama/Llama-3.1-70B", "lora", 1e-4),
        ("meta-llama/Llama-3.1-8B", "full", 2e-5),
        ("some/unknown-model", "full", 2e-5),
    ],
)
def test_learning_rate_by_size(model: str, kind: str, rate: float) -> None:
    """What `auto` takes is what `advise` says, by the model's size."""
    config = find_model(model)
    shape = shape_by_name(config) if config else None
    job = JobFile.model_validate(
        {"name": "x", "model": {"path": model}, "method": {"kind": kind}, "data": {"train": [{"path": "a"}]}}
    )
    machine = Machine(num_cores=2, memory_bytes=2**34)
    assert decide_step_layout(job, machine, shape=shape).learning_rate == rate


def test_attention_and_type_by_device(job, cpu_machine, gpu_machine) -> None:
    cpu = make_plan(job(), cpu_machine).trainer.model
    gpu = make_plan(job(resources={"gpu": "auto"}), gpu_machine).trainer.model
    flash = make_plan(
        job(resources={"gpu": "auto"}), dataclasses.replace(gpu_machine, has_flash_attention=True)
    ).trainer.model
    assert (cpu.attention, cpu.dtype) == ("padded", "float32")
    assert (gpu.attention, gpu.dtype) == ("varlen", "bfloat16")
    assert flash.attention == "flash"


def test_phases_end_with_evaluation_only_when_there_are_prompts(job, cpu_machine) -> None:
    assert make_plan(job(), cpu_machine).launch["phases"] == ["prepare", "train", "export"]
    prompts = make_plan(job(evaluation={"generate": "/tmp/prompts.jsonl"}), cpu_machine)
    assert prompts.launch["phases"] == ["prepare", "train", "export", "evaluate"]


def test_what_this_machine_does_not_have(job, cpu_machine, gpu_machine) -> None:
    with pytest.raises(MachineError, match="asks for 'h100-80'; this machine has no GPU"):
        make_plan(job(resources={"gpu": "h100-80"}), cpu_machine)
    with pytest.raises(MachineError, match="asks for 16; this machine has 8"):
        make_plan(job(resources={"gpu": "h100-80", "gpus_per_node": 16}), gpu_machine)
    with pytest.raises(SettingError, match="the local profile has one machine"):
        make_plan(job(resources={"nodes": 2}), cpu_machine)
    assert make_plan(job(resources={"gpu": "h100-80"}), gpu_machine).trainer.execution.device == "cuda"


def test_an_unknown_projection_is_refused_before_anything_runs(job, cpu_machine) -> None:
    with pytest.raises(SettingError, match="no projection 'qproj'"):
        make_plan(job(method={"kind": "lora", "target_modules": ["qproj"]}), cpu_machine)


def test_a_model_that_cannot_fit_says_what_the_leanest_plan_needs(job, job_folder, cpu_machine) -> None:
    write_model(job_folder / "model", **LLAMA_8B, tie_word_embeddings=False)
    with pytest.raises(JobError, match=r"no plan fits: the leanest \(.*checkpointing\) needs \d+\.\d GiB per rank"):
        make_plan(job(), cpu_machine)


def test_an_8b_full_fine_tune_on_eight_gpus(job, job_folder, gpu_machine) -> None:
    write_model(job_folder / "model", **LLAMA_8B, tie_word_embeddings=False)
    plan = make_plan(
        job(resources={"gpu": "auto"}, data={"max_length": 4096}, training={"tokens_per_step": "auto"}), gpu_machine
    )
    assert plan.choice.candidate.peak_bytes < plan.choice.limit_bytes
    too_big = [r for r in plan.choice.rejected if r.candidate.layout.engine == "zero0"]
    assert all("does not fit" in r.reason for r in too_big)


def test_a_hub_model_that_is_not_here_is_planned_on_the_safe_side(job, cpu_machine, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = make_plan(job(model={"path": "org/name"}), cpu_machine)
    assert plan.as_json()["prediction"] is None
    assert plan.trainer.training.gradient_checkpointing is True
    assert "not known" in reason(plan, "training.gradient_checkpointing")


def memory(dtype: str = "bfloat16", hardware: Hardware | None = None, **changes: object) -> Prediction:
    """Memory of one rank of our trainer."""
    values = {"engine": "zero0", "length": 4096, "chunk_tokens": 1024} | changes
    layout = ParallelLayout(**values)  # type: ignore[arg-type]
    trainer = our_trainer(layout.engine, dtype=dtype, attention="sdpa" if dtype == "float32" else "flash")
    return predicted(MemoryInput(shape=SHAPE, layout=layout, trainer=trainer, hardware=hardware or Hardware()))


SHAPE = shape_from_config(LLAMA_8B)
N = SHAPE.num_parameters

# Bytes per parameter of the model: weights, gradients, moments, master weights. In bfloat16 DeepSpeed keeps gradients
# in float32; ZeRO-0 cannot train all weights then, and plans do not have it.
STATES = {
    ("zero0", 1, "float32"): (4, 4, 8, 0),
    ("zero0", 8, "float32"): (4, 4, 8, 0),
    ("zero1", 8, "bfloat16"): (2, 4, 1, 0.5),
    ("zero2", 8, "bfloat16"): (2, 0.5, 1, 0.5),
    ("zero3", 8, "bfloat16"): (0.25, 0.5, 1, 0.5),
    ("zero3", 8, "float32"): (0.5, 0.5, 1, 0.5),
    ("fsdp2", 8, "bfloat16"): (0.5, 0.5, 1, 0),
    ("fsdp2", 8, "float32"): (0.5, 0.5, 1, 0),
    ("fsdp2", 1, "float32"): (4, 4, 8, 0),
}


@pytest.mark.parametrize("case", STATES)
def test_model_states_by_engine(case: tuple[str, int, str]) -> None:
    engine, ranks, dtype = case
    found = memory(dtype, engine=engine, ranks=ranks).parts["step"]
    names = ("weights", "gradients", "moments", "master_weights")
    assert [found.get(name, 0) / N for name in names] == pytest.approx(STATES[case], abs=1e-6)


def test_adapters_take_sixteen_bytes_each() -> None:
    prediction = memory(adapters=Adapters(r=16))
    adapters = prediction.num_trainable
    assert adapters == 41_943_040
    parts = prediction.components
    assert parts["weights"] == 2 * N + 4 * adapters
    assert parts["gradients"] + parts["moments"] == 12 * adapters


# Llama-3.1-8B by hand: a layer's projections hold 2 x 4096 x 4096 + 2 x 4096 x 1024 + 3 x 4096 x 14336 =
# 218,103,808 numbers, in 2 x 4096 + 2 x 1024 + 2 x 14336 + 4096 = 43,008 rows; 1,050,939,392 numbers lie elsewhere.
QUANTISED = {
    "nf4": 32 * (109_051_904 + 3_407_872 + 4 * 13_312),  # half a byte; a byte per 64; 4 per 64 x 256
    "nf4_plain": 32 * (109_051_904 + 4 * 3_407_872),
    "int8": 32 * (218_103_808 + 4 * 43_008),
}


@pytest.mark.parametrize("quantization", QUANTISED)
@pytest.mark.parametrize(("engine", "shards"), [("zero0", 1), ("zero2", 1), ("zero3", 8), ("fsdp2", 8)])
def test_quantised_weights_lie_whole_on_every_rank(quantization: str, engine: str, shards: int) -> None:
    prediction = memory("float32", engine=engine, ranks=8, adapters=Adapters(r=16), quantization=quantization)
    rest = 4 * 1_050_939_392 + 4 * 41_943_040
    whole = rest // shards + QUANTISED[quantization]
    # the scales of int8, one per row, are less than a thousandth and not counted
    assert prediction.components["weights"] == (whole if quantization != "int8" else pytest.approx(whole, rel=1e-3))
    assert prediction.components["dequantised"] == 4096 * 14336 * 4
    assert prediction.num_parameters == N + 41_943_040


def test_bits_of_a_quantised_number_are_those_of_the_paper() -> None:
    numbers = 32 * 218_103_808
    assert 8 * QUANTISED["nf4"] / numbers == pytest.approx(4 + 8 / 64 + 32 / (64 * 256))
    assert 8 * QUANTISED["nf4"] / numbers == pytest.approx(4.127, abs=5e-4)
    assert 8 * QUANTISED["nf4_plain"] / numbers == 4.5


@pytest.mark.parametrize(("dtype", "each"), [("bfloat16", 2), ("float32", 4)])
def test_only_what_is_not_quantised_is_gathered(dtype: str, each: int) -> None:
    plain, quantised = (
        memory(dtype, engine="fsdp2", ranks=8, adapters=Adapters(r=16), quantization=kind) for kind in ("", "nf4")
    )
    assert plain.components["gathered"] - quantised.components["gathered"] == 2 * each * 218_103_808
    assert "dequantised" not in plain.components
    assert {"backward", "backward_end"} == {n for n, parts in quantised.parts.items() if "dequantised" in parts}


def test_an_8b_model_fits_a_small_gpu_only_quantised(job, job_folder) -> None:
    write_model(job_folder / "model", **LLAMA_8B, tie_word_embeddings=False)
    gpu = Machine(num_cores=8, memory_bytes=2**36, gpu_names=("NVIDIA A10G",), gpu_memory_bytes=14 * GIB)
    sections = {"resources": {"gpu": "auto", "cpu_ranks": "auto"}, "training": {"tokens_per_step": "auto"}}
    with pytest.raises(JobError, match="no plan fits") as caught:
        make_plan(job(**sections, method={"kind": "lora"}), gpu)
    assert caught.value.remedy == (
        "Would fit, each alone: method.quantization: nf4; resources.nodes: 2 on a cluster of such machines."
    )
    plan = make_plan(job(**sections, method={"kind": "lora", "quantization": "nf4"}), gpu)
    assert plan.trainer.method.quantization == "nf4"
    assert plan.choice.candidate.peak_bytes < plan.choice.limit_bytes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_peak_is_the_sum_of_what_is_alive_in_the_binding_phase(engine: str, checkpointing: str, dtype: str) -> None:
    prediction = memory(dtype, engine=engine, ranks=4, checkpointing=checkpointing)
    assert prediction.peak_bytes == sum(prediction.binding_components().values())
    assert prediction.peak_bytes == max(prediction.phases.values())


def test_activations_with_and_without_checkpointing() -> None:
    kept, everything = (memory("float32", checkpointing=kind).components for kind in ("full", "none"))
    assert kept["stored_activations"] == 32 * 4096 * 4096 * 4
    # of a layer in float32: its input, both norms' inputs and results, query to output with all heads, the inputs of
    # q, k, v and of gate and up, and gate, activation, up and their product
    hidden, q, f = 4096, 4096, 14336
    layer = 4 * (hidden + (1 + 2) * hidden + 4 * q + 2 * hidden + 4 * f)
    assert everything["stored_activations"] == 32 * 4096 * layer
    assert everything["stored_activations"] > 10 * kept["stored_activations"]


def test_published_peaks_of_adapters_on_one_gpu() -> None:
    """Llama-3-8B with LoRA r16 on q, k, v, o, 4 x 4096 tokens, fused loss: 23.2 GiB allocated on an A100."""
    adapters = Adapters(r=16, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    prediction = memory(micro_batch=4, adapters=adapters)
    allocated = prediction.peak_bytes - prediction.components["runtime"] - prediction.components["fragmentation"]
    assert allocated / GIB == pytest.approx(23.2, rel=0.15)


def test_the_cpu_has_no_context_and_no_fragments() -> None:
    on_cpu, on_gpu = memory("float32", CPU).parts["loss"], memory("float32").parts["loss"]
    assert (on_cpu["runtime"], on_cpu["fragmentation"]) == (int(0.9 * GIB), 0)
    assert on_gpu["fragmentation"] > 0
    of_gpus = ("runtime", "fragmentation", "small")
    assert {n: on_cpu[n] for n in on_cpu if n not in of_gpus} == {n: on_gpu[n] for n in on_gpu if n not in of_gpus}


def test_machine_without_gpu_is_planned_for_cpu(job) -> None:
    plan = make_plan(job(resources={"gpu": "auto"}), Machine(num_cores=4, memory_bytes=16 * GIB))
    assert plan.launch["device"] == "cpu"
    assert plan.launch["threads_per_rank"] == 2


@pytest.mark.parametrize(
    ("training", "setting", "words"),
    [
        ({"warmup_steps": 50, "max_steps": 40}, "training.warmup_steps", "longer than the run, which has 40 steps"),
        ({"lr_scheduler_kwargs": {"lr_end": 1e-6}}, "training.lr_scheduler_kwargs.lr_end", "no argument of cosine"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "training.lr_scheduler_kwargs", "needs num_decay_steps"),
    ],
)
def test_a_schedule_that_cannot_be_followed_is_refused(job, cpu_machine, training, setting: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        make_plan(job(training=training), cpu_machine)
    assert caught.value.setting == setting and caught.value.remedy


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"evaluation": {"every_steps": 5}, "data": {"eval": {}}}, "evaluation.every_steps"),
        ({"evaluation": {"max_new_tokens": 7}}, "evaluation.max_new_tokens"),
        ({"checkpoint": {"max_overhead": 0.1, "every_minutes": 5}}, "checkpoint.max_overhead"),
        ({"evaluation": {"every_steps": 5}, "data": {"eval": {"split": 0.1}}}, ""),
    ],
)
def test_settings_without_effect_are_said(job, cpu_machine, sections: dict[str, object], named: str) -> None:
    found = [words for words in make_plan(job(**sections), cpu_machine).warnings if "does nothing" in words]
    found += [words for words in make_plan(job(**sections), cpu_machine).warnings if "only acts with" in words]
    assert [words.split(" ")[0] for words in found] == ([named] if named else [])
