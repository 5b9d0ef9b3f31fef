"""Plans for GPUs that are not here: against published layouts, by objective, within limits, and what would fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launcher_samples import write_model

from benchmarks.sizing import other_trainers
from benchmarks.sizing.other_trainers import estimate_other
from cluster.slurm.profile import Profile
from launcher import estimate
from launcher.cli import run
from launcher.errors import JobError
from launcher.jobfile import JobFile, SettingError, load_job
from launcher.planner.ask.estimate_question import EstimateQuestion, answer
from launcher.planner.ask.what_if import compare, imagined
from launcher.planner.forecast import bill_json
from launcher.planner.layouts.candidates import PlanningContext, every_candidate, memory_limit_bytes
from launcher.planner.layouts.gpu_candidate import planned_gpu
from launcher.planner.plan import Plan, make_plan
from launcher.planner.remote import machine_of
from launcher.planner.settings.node_counts import step_layouts_for
from launcher.site.hardware import Machine
from launcher.sizing.gpus import parse_gpus
from launcher.sizing.shape import shape_by_name

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
BIG_JOB = """\
name: big
model: {path: meta-llama/Llama-3.1-70B}
method: METHOD
data:
  train: [{path: train.jsonl}]
  max_length: 4096
training: {max_steps: 1000}
resources: {objective: cost}
"""
FULL, LORA, QLORA = "{kind: full}", "{kind: lora}", "{kind: lora, quantization: nf4}"


@pytest.fixture
def big(write_job: Callable[..., Path], monkeypatch, tmp_path: Path) -> Callable[..., JobFile]:
    """A job of a 70B model, or another one of the catalogue, with some settings of `resources`."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    monkeypatch.delenv("TUNEYARD_PRICES", raising=False)

    def make(method: str = LORA, model: str = "", **resources: object) -> JobFile:
        text = BIG_JOB.replace("METHOD", method).replace("Llama-3.1-70B", model or "Llama-3.1-70B")
        job = load_job(write_job(text)).job
        return job.model_copy(update={"resources": job.resources.model_copy(update=resources)})

    return make


def planned(job: JobFile, gpu: str) -> Plan:
    return make_plan(*imagined(job, gpu))


# NVIDIA's default sizing (NeMo 8cfedd7, Megatron Bridge): 70B LoRA at 4k on 8 H100-80, 70B SFT at 4k on 32. On other
# GPUs the number that holds the same memory: A100-40 twice, H200 79/140 and L40S 79/44, rounded up to whole nodes.
PUBLISHED = {
    (FULL, "H100-80"): 32,
    (FULL, "A100-40"): 64,
    (FULL, "H200"): 24,
    (FULL, "L40S"): 64,
    (LORA, "H100-80"): 8,
    (LORA, "A100-40"): 16,
    (LORA, "H200"): 8,
    (LORA, "L40S"): 16,
    (QLORA, "H100-80"): 8,
    (QLORA, "H200"): 8,
    (QLORA, "A100-40"): 8,
    (QLORA, "L40S"): 8,
}


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_a_70b_model_takes_no_more_gpus_than_published(big, case: tuple[str, str]) -> None:
    method, gpu = case
    plan = planned(big(method, objective="gpus"), gpu)
    candidate = plan.choice.candidate
    assert candidate.step_layout.world_size <= PUBLISHED[case]
    assert candidate.peak_bytes <= plan.choice.limit_bytes
    assert plan.choice.rejected
    assert all(rejected.reason for rejected in plan.choice.rejected)
    assert next(d for d in plan.decisions if d.setting == "resources.nodes").reason


@pytest.mark.parametrize(("method", "gpus"), [(LORA, "8xH100-80"), (FULL, "32xH100-80")])
def test_the_published_layouts_themselves_fit(big, method: str, gpus: str) -> None:
    plan = planned(big(method), gpus)
    assert f"{plan.trainer.execution.world_size}xH100-80" == gpus
    assert plan.choice.candidate.speed


@pytest.mark.parametrize("gpu", ["A100-40", "L40S"])
def test_packed_weights_are_split_where_they_do_not_fit_whole(big, gpu: str) -> None:
    with pytest.raises(JobError, match="no plan fits") as caught:
        planned(big(QLORA, shard_quantized=False), f"8x{gpu}")
    assert "resources.shard_quantized: true" in caught.value.remedy
    plan = planned(big(QLORA), f"8x{gpu}")
    assert plan.trainer.execution.shard_quantized
    decision = next(d for d in plan.decisions if d.setting == "resources.shard_quantized")
    assert "do not fit whole" in decision.reason
    weights = plan.choice.candidate.prediction.components["weights"]  # type: ignore[union-attr]
    packed, rest = 68.45e9 * 0.5159, 2.1e9 * 2
    assert packed / 8 + rest / 8 < weights < packed / 8 + 1.1 * rest + 2e9


def test_packed_weights_stay_whole_where_that_is_quicker(big) -> None:
    plan = planned(big(QLORA, "Llama-3.1-8B"), "8xH100-80")
    assert not plan.trainer.execution.shard_quantized
    sharded = planned(big(QLORA, "Llama-3.1-8B", shard_quantized=True), "8xH100-80")
    assert sharded.choice.candidate.speed.step_seconds > plan.choice.candidate.speed.step_seconds  # type: ignore[union-attr]
    assert sharded.choice.candidate.peak_bytes < plan.choice.candidate.peak_bytes


def test_only_what_is_packed_can_be_asked_to_be_split(big) -> None:
    with pytest.raises(SettingError, match="needs quantised weights"):
        planned(big(LORA, shard_quantized=True), "8xH100-80")


def test_estimates_split_packed_weights_where_needed_too() -> None:
    small, large = (estimate("Llama-3.1-70B", "qlora", gpus) for gpus in ("8xA100-40", "8xH200"))
    assert (small.verdict, small.as_json()["layout"]["shard_packed"]) == ("fits", True)
    assert "shard_packed" not in large.as_json()["layout"]
    other = estimate_other("Llama-3.1-70B", "qlora", "8xA100-40", "trl", engine="ddp")
    assert other.verdict == "no", "other trainers do not do that"


def test_405b_is_planned_without_torch(big, write_job, tmp_path: Path) -> None:
    """How fast it is shows `python -m benchmarks.startup`."""
    text = BIG_JOB.replace("METHOD", LORA).replace("Llama-3.1-70B", "Llama-3.1-405B")
    code = (
        "import sys; from launcher.cli import run; "
        f"code = run(['plan', {str(write_job(text))!r}, '--gpu', 'H100-80', '--json']); "
        "print(code, 'torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split()[-2:] == ["0", "False"]
    assert json.loads(done.stdout)["prediction"]["step_seconds"] > 0


def test_objectives(big) -> None:
    cost, time, gpus = (planned(big(LORA, objective=name), "A100-40").choice for name in ("cost", "time", "gpus"))
    assert gpus.candidate.step_layout.world_size <= cost.candidate.step_layout.world_size
    assert time.candidate.relative_time <= cost.candidate.relative_time
    assert cost.candidate.gpu_time <= 1.05 * min(time.candidate.gpu_time, gpus.candidate.gpu_time)
    assert time.candidate.step_layout.world_size > cost.candidate.step_layout.world_size


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_nodes_than_allowed(big, most: int) -> None:
    plan = planned(big(LORA, objective="time", max_nodes=most), "H100-80")
    assert plan.launch["nodes"] <= most


@pytest.mark.parametrize("objective", ["cost", "time", "gpus"])
def test_every_plan_divides_its_step_over_its_own_ranks(big, objective: str) -> None:
    plan = planned(big(LORA, objective=objective, max_nodes=6), "H100-80")
    for candidate in (plan.choice.candidate, *(rejected.candidate for rejected in plan.choice.rejected)):
        step_layout = candidate.step_layout
        layout = candidate.layout
        assert layout.ranks * layout.micro_batch * layout.accumulation == step_layout.packs_per_step


def test_a_step_that_some_numbers_of_nodes_do_not_divide(big) -> None:
    job = big(LORA, objective="time", max_nodes=6)
    training = job.training.model_copy(update={"tokens_per_step": 64 * 4096})
    plan = planned(job.model_copy(update={"training": training}), "H100-80")
    assert {c.candidate.step_layout.packs_per_step for c in plan.choice.rejected} == {64}
    assert 64 % plan.trainer.execution.world_size == 0


def test_a_deadline_asks_for_more_gpus(big) -> None:
    slow = planned(big(FULL), "H100-80")
    hours = slow.as_json()["prediction"]["hours"]
    quick = planned(big(FULL, deadline_hours=0.6 * hours), "H100-80")
    assert quick.trainer.execution.world_size > slow.trainer.execution.world_size
    assert quick.as_json()["prediction"]["hours"] <= 0.6 * hours
    assert any("and the deadline is" in rejected.reason for rejected in quick.choice.rejected)


def test_a_budget_that_nothing_keeps_is_refused_with_what_it_costs(big) -> None:
    with pytest.raises(JobError, match=r"the cheapest .* costs \d+ USD, and the budget is 1 USD") as caught:
        planned(big(LORA, budget=1.0), "8xH100-80")
    assert "resources.budget" in caught.value.remedy


def test_limits_that_cannot_be_checked_are_said_so(big) -> None:
    job = big(LORA, deadline_hours=1.0)
    training = job.training.model_copy(update={"max_steps": None})
    data = job.data.model_copy(update={"train": [job.data.train[0].model_copy(update={"path": "lab/on-the-hub"})]})
    plan = planned(job.model_copy(update={"training": training, "data": data}), "8xH100-80")
    reason = next(d.reason for d in plan.decisions if d.setting == "resources.deadline_hours")
    assert reason == "not checked: that needs training.max_steps"
    assert plan.as_json()["prediction"]["hours"] is None


def test_limits_are_kept_by_estimated_steps_too(big, job_folder: Path) -> None:
    job = big(LORA, deadline_hours=1.0)
    (job_folder / "train.jsonl").write_text((json.dumps({"text": "word " * 2000}) + "\n") * 20_000)
    whole = job.model_copy(update={"training": job.training.model_copy(update={"max_steps": None})})
    with pytest.raises(JobError, match="the deadline is 1 h"):
        planned(whole, "8xH100-80")
    patient = whole.model_copy(update={"resources": job.resources.model_copy(update={"deadline_hours": 1000.0})})
    found = planned(patient, "8xH100-80").as_json()["prediction"]
    assert found["steps_from"].startswith("estimated")
    assert found["hours"] == pytest.approx(found["steps"] * found["step_seconds"] / 3600)


def test_nodes_whose_own_memory_is_too_small_are_refused(big) -> None:
    job, machine = imagined(big(LORA, "Llama-3.1-8B"), "8xH100-80")
    enough, little = (replace(machine, memory_bytes=gib * 1024**3) for gib in (64, 24))
    assert make_plan(job, enough).choice.step_layout.world_size == 8
    with pytest.raises(JobError, match="takes 32 GiB of each node's memory in training, and it has 24 GiB") as caught:
        make_plan(job, little)
    assert "gpus_per_node" in caught.value.remedy
    fewer = job.model_copy(update={"resources": job.resources.model_copy(update={"gpus_per_node": 4})})
    assert make_plan(fewer, little).choice.step_layout.world_size == 4


def test_hours_cost_and_slices_follow_from_a_step(big) -> None:
    found = planned(big(LORA, walltime="4h"), "8xH100-80").as_json()["prediction"]
    assert found["hours"] == pytest.approx(1000 * found["step_seconds"] / 3600)
    assert found["gpu_hours"] == pytest.approx(8 * found["hours"])
    assert found["cost"] == pytest.approx(found["gpu_hours"] * found["usd_per_gpu_hour"])
    assert found["walltime_slices"] == -(-found["hours"] // (4 - 0.2))
    assert "2025" in found["price_note"]
    assert bill_json(found, 2000, 8)["hours"] == pytest.approx(2 * found["hours"])
    assert bill_json({"peak_bytes": 1}, 2000, 8) == {}


def test_a_walltime_shorter_than_a_start_has_no_slices(big) -> None:
    assert planned(big(LORA, walltime="5m"), "8xH100-80").as_json()["prediction"]["walltime_slices"] is None


def test_the_users_own_price_counts(big, monkeypatch, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("H100-80: {price: 1.5, date: 2026-01-01, source: contract}\n")
    monkeypatch.setenv("TUNEYARD_PRICES", str(prices))
    found = planned(big(LORA), "8xH100-80").as_json()["prediction"]
    assert (found["usd_per_gpu_hour"], found["price_note"]) == (1.5, "2026-01-01, contract")


def test_every_way_to_fit_does_fit(big) -> None:
    job = big(FULL)
    with pytest.raises(JobError, match="no plan fits") as caught:
        planned(job, "8xH100-80")
    assert caught.value.remedy.startswith("Would fit, each alone: resources.nodes: 3; ")
    assert "method: {kind: lora}" in caught.value.remedy
    assert planned(job, "24xH100-80")
    with pytest.raises(JobError):
        planned(job, "16xH100-80")


def test_what_is_closed_without_need_is_opened_first(big) -> None:
    with pytest.raises(JobError) as caught:
        planned(big(LORA, engine="zero1"), "8xH100-80")
    assert "resources.engine: auto" in caught.value.remedy.split(";")[0]


def test_unknown_and_broken_gpus_are_refused(big) -> None:
    with pytest.raises(JobError, match="unknown GPU 'H1000'"):
        imagined(big(), "8xH1000")
    with pytest.raises(JobError, match="nodes have 8") as caught:
        imagined(big(), "12xH100-80")
    assert caught.value.remedy == "Nearest: 8 or 16."


def test_a_gpu_that_the_catalogue_lacks_is_planned_without_speed(big) -> None:
    machine = Machine(num_cores=8, memory_bytes=2**40, gpu_names=("ACME X1",) * 8, gpu_memory_bytes=64 * 2**30)
    plan = make_plan(big(LORA, gpu="auto"), machine)
    assert plan.choice.limit_bytes == int(0.97 * 64 * 2**30)
    assert plan.choice.candidate.speed is None
    assert "step_seconds" not in plan.as_json()["prediction"]


def test_engines_side_by_side(big) -> None:
    found = compare(*imagined(big(), "8xH100-80"), ["zero1", "zero3", "fsdp2"])
    assert [one.plan is not None for one in found] == [True, True, False]
    assert found[-1].engine == "zero1"
    assert "no plan fits" in found[-1].error
    assert found[0].as_json()["prediction"]["step_seconds"] <= found[1].as_json()["prediction"]["step_seconds"]


def test_the_catalogue_stands_in_for_a_model_that_is_not_here(big) -> None:
    plan = planned(big(), "8xH100-80")
    assert plan.shape is not None
    assert plan.shape.num_parameters == 70_553_706_496
    assert next(d for d in plan.decisions if d.setting == "model.shape").value


@pytest.mark.parametrize("objective", ["cost", "gpus"])
def test_a_model_that_nobody_knows_takes_a_whole_node(big, objective: str) -> None:
    plan = planned(big(LORA, "Secret-Model", objective=objective), "H100-80")
    assert plan.as_json()["prediction"] is None
    assert plan.trainer.execution.world_size == 8


@pytest.mark.parametrize("method", [FULL, LORA])
def test_planner_and_estimate_say_the_same(big, job_folder: Path, method: str) -> None:
    write_model(job_folder / "model", **LLAMA_8B)
    job, machine = imagined(big(method), "8xH100-80")
    model = job.model.model_copy(update={"path": str(job_folder / "model")})
    resources = job.resources.model_copy(update={"engine": "fsdp2", "micro_batch": 2})
    plan = make_plan(job.model_copy(update={"model": model, "resources": resources}), machine)
    candidate = plan.choice.candidate
    found = estimate(
        job_folder / "model",
        "lora" if method == LORA else "full",
        "8xH100-80",
        engine="fsdp2",
        micro_batch=2,
        length=4096,
        accumulation=candidate.layout.accumulation,
        checkpointing="full" if candidate.checkpointing else "none",
    )
    assert candidate.peak_bytes == pytest.approx(found.memory.process * 2**30, abs=10)


@pytest.mark.parametrize("model", ["qwen2.5-0.5b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"])
@pytest.mark.parametrize("gpus", ["8xH100-80", "1xA100-80", "4xL40S"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_command_estimate_takes_the_layout_of_a_plan(big, method: str, gpus: str, model: str) -> None:
    """One question, one answer: engine, micro-batch, accumulation, checkpointing, memory, speed; or both say no."""
    job, machine = imagined(big({"full": FULL, "lora": LORA, "qlora": QLORA}[method]), gpus)
    job = job.model_copy(update={"model": job.model.model_copy(update={"path": model})})
    found = answer(EstimateQuestion(model=model, method=method, gpus=parse_gpus(gpus), length=4096))
    try:
        best = make_plan(job, machine).choice.candidate
    except JobError as error:
        assert "no plan fits" in error.message
        assert not found.fits
        assert not any("offload" in words for words in found.suggestions), "no job can have it"
        return
    assert found.fits
    assert (found.estimate.given, found.speed) == (best.memory_input, best.speed)
    assert found.estimate.memory.process * 2**30 == pytest.approx(best.peak_bytes, abs=10)
    assert found.estimate.layout.chunk_tokens == job.loss.chunk_tokens


@pytest.mark.parametrize(("flag", "value"), [("offload", "all"), ("checkpointing", "selective"), ("engine", "fsdp1")])
def test_estimate_refuses_what_no_job_can_have(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    asked = ["--model", "llama-3.1-8b", "--method", "full", "--gpus", "8xH100-80", f"--{flag}", value]
    assert run(["estimate", *asked]) == 2
    assert value in capsys.readouterr().err or flag == "offload"
    gpus = parse_gpus("8xH100-80")
    others = other_trainers.Asked(trainer="trl", model="llama-3.1-8b", method="full", gpus=gpus, **{flag: value})
    assert other_trainers.answer(others).estimate.memory.process > 0


def test_estimate_lays_the_step_over_the_data_as_a_plan_does(big) -> None:
    few = EstimateQuestion(model="llama-3.1-8b", method="lora", gpus=parse_gpus("8xH100-80"), tokens=500_000, rows=1000)
    many = replace(few, tokens=500_000_000, rows=1_000_000)
    assert answer(few).candidate.layout.accumulation == 1
    laid = answer(many).candidate.layout
    assert laid.accumulation * laid.micro_batch > 1
    assert answer(few).bill is not None and answer(few).bill.steps == 125  # type: ignore[union-attr]


def test_adapters_and_what_trains_beside_them_are_counted(big) -> None:
    job, machine = imagined(big("{kind: lora, modules_to_save: [lm_head], lora_dropout: 0.1}"), "8xH100-80")
    plain, whole = planned(big(LORA), "8xH100-80"), make_plan(job, machine)
    trainable = [plan.choice.candidate.prediction.num_trainable for plan in (plain, whole)]  # type: ignore[union-attr]
    assert trainable[1] - trainable[0] == 128256 * 8192


def test_phases_and_components_add_up_on_gpus(big) -> None:
    job, machine = imagined(big(), "8xH100-80")
    step_layout = step_layouts_for(job, machine)[0]
    context = PlanningContext(machine=machine, gpu=planned_gpu(machine), shape=shape_by_name("llama-3.1-70b"))
    for candidate in every_candidate(job, step_layout, context):
        prediction = candidate.prediction
        assert prediction is not None
        assert prediction.peak_bytes == sum(prediction.binding_components().values()) == max(prediction.phases.values())
    assert memory_limit_bytes(step_layout, context) / 2**30 == pytest.approx(0.97 * 79.1)


def on_cluster(job: JobFile, **settings: object) -> Plan:
    profile = Profile.from_dict("site", {"gpus_per_node": 8, "max_walltime": "24h", "gpu_request": "none", **settings})
    cluster = job.cluster.model_copy(update={"profile": "site"})
    job = job.model_copy(update={"cluster": cluster})
    return make_plan(job, machine_of(job, profile), profile)


@pytest.mark.parametrize("gpu", ["h100-80", "h200", "l40s"])
def test_a_cluster_gives_as_many_nodes_as_serve_the_objective(big, gpu: str) -> None:
    plan = on_cluster(big(FULL, gpu=gpu))
    assert plan.launch["nodes"] == plan.choice.step_layout.nodes > 1
    assert plan.launch["ranks_per_node"] == 8
    assert plan.as_json()["prediction"]["walltime_slices"] >= 1
    fixed = on_cluster(big(FULL, gpu=gpu, nodes=plan.launch["nodes"]))
    assert fixed.trainer == plan.trainer


def test_more_nodes_than_allowed_are_named_when_nothing_fits(big) -> None:
    with pytest.raises(JobError, match="no plan fits") as caught:
        on_cluster(big(FULL, gpu="h100-80", max_nodes=2))
    assert "resources.max_nodes: 3" in caught.value.remedy


def test_nodes_with_little_memory_are_warned_about(big) -> None:
    def warned(memory: str) -> list[str]:
        plan = on_cluster(big(FULL, gpu="h100-80"), memory=memory)
        return [d.reason for d in plan.decisions if d.setting == "node memory"]

    assert warned("1900G") == warned("0") == []
    assert "while loading" in warned("100G")[0]


def test_an_old_gpu_comes_with_a_caution(big) -> None:
    found = planned(big(QLORA, "Llama-3.1-8B"), "8xV100-32").as_json()["prediction"]
    assert any("no bfloat16 units" in caution for caution in found["cautions"])


V100_FLOAT32_TFLOPS = 15.7


@pytest.mark.parametrize("gpu", ["8xV100-32", "4xT4-16"])
def test_gpus_without_bfloat16_train_in_float32_at_its_speed(big, gpu: str) -> None:
    plan = planned(big(LORA, "Qwen2.5-0.5B"), gpu)
    assert (plan.trainer.model.dtype, plan.trainer.model.attention) == ("float32", "sdpa")
    assert plan.choice.candidate.speed
    assert 0 < plan.choice.candidate.speed.tflops_per_gpu < V100_FLOAT32_TFLOPS
    job = big(LORA, "Qwen2.5-0.5B")
    asked = job.model_copy(update={"model": job.model.model_copy(update={"dtype": "bfloat16"})})
    with pytest.raises(SettingError) as caught:
        planned(asked, gpu)
    assert caught.value.setting == "model.dtype"


@pytest.mark.parametrize(("model", "backend"), [("Gemma-2-9B", "flex"), ("Llama-3.1-8B", "varlen")])
def test_attention_is_one_that_the_model_can_use(big, model: str, backend: str) -> None:
    job = big(LORA, model)
    assert planned(job, "8xH100-80").trainer.model.attention == backend
    asked = job.model_copy(update={"model": job.model.model_copy(update={"attention": "varlen"})})
    if backend == "flex":
        with pytest.raises(SettingError, match="bound on scores"):
            planned(asked, "8xH100-80")


def test_a_run_out_of_memory_is_told_what_to_change(big) -> None:
    remedy = planned(big(LORA), "8xH100-80").launch["remedies"]["out_of_memory"]
    assert remedy.startswith("set resources.micro_batch to ")
    assert "slower" in remedy or "as quick" in remedy


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["plan", *arguments]) == 0
    return capsys.readouterr().out


def test_plan_prints_memory_speed_cost_and_reasons(big, job_folder: Path, capsys) -> None:
    big(LORA)
    text = shown(capsys, str(job_folder / "job.yaml"), "--gpu", "8xH100-80")
    for part in (
        "zero3 on 8 x H100-80",
        "Memory per rank:",
        "####",
        "tokens/s per GPU",
        "USD at",
        "taken",
        "Turned down",
    ):
        assert part in text
    assert "Next:" not in text


def test_compare_on_the_command_line(big, job_folder: Path, capsys) -> None:
    big(LORA)
    job = str(job_folder / "job.yaml")
    text = shown(capsys, job, "--gpu", "8xH100-80", "--compare", "zero3,fsdp2,zero1")
    assert "no plan fits" in text
    found: dict[str, Any] = json.loads(shown(capsys, job, "--gpu", "8xH100-80", "--compare", "fsdp2", "--json"))
    assert found["compared"][0]["fits"] is True
    assert found["compared"][0]["prediction"]["cost"] > 0
    assert run(["plan", job, "--compare", "zero9"]) == 2
    assert "unknown engine 'zero9'" in capsys.readouterr().err


def test_importing_the_launcher_imports_no_sizing() -> None:
    code = (
        "import sys, launcher; print('launcher.sizing' in sys.modules); "
        "launcher.estimate; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
