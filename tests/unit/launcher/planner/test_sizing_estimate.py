"""The estimate: plain numbers, clear refusals, no torch, quick; other trainers by name and by words."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.sizing import trainers
from benchmarks.sizing.other_trainers import estimate_other
from launcher.errors import JobError
from launcher.planner.ask.estimate import estimate, estimate_of, to_text
from launcher.sizing.host import RUNTIME_GIB, Host
from launcher.sizing.layout import Adapters
from launcher.sizing.shape import config_by_name, shape_by_name

ROOT = Path(__file__).parents[4]


def test_405b_is_quick() -> None:
    estimate("Llama-3.2-1B")
    start = time.perf_counter()
    found = estimate("meta-llama/Llama-3.1-405B", "full", "512xH100-80", length=8192)
    assert time.perf_counter() - start < 0.2
    assert found.as_json()["parameters"] == 405_853_388_800


def test_no_torch_is_imported() -> None:
    code = "from launcher.planner.ask.estimate import estimate; estimate('Qwen3-8B')"
    code += "; import sys; print({'torch', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_json_is_plain_and_adds_up() -> None:
    found = json.loads(to_text(estimate("Llama-3.1-8B", "qlora", "1xL40S-48", length=4096)))
    assert found["verdict"] == "fits"
    assert sum(found["components_gib"].values()) == pytest.approx(found["allocated_gib"], abs=0.02)
    assert max(found["phases_gib"][p] for p in ("loss", "backward", "backward_end", "step")) == found["allocated_gib"]
    assert set(found["host"]) == {"load_gib", "load_elsewhere_gib", "load_naive_gib", "training_gib"}


def test_a_job_laid_out_already_gives_the_same_numbers() -> None:
    found = estimate("Llama-3.1-8B", "lora", "8xA100-40")
    assert estimate_of(found.given) == found


def test_from_a_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_by_name("qwen3-8b")))
    assert estimate(path).memory == estimate(tmp_path).memory == estimate("Qwen3-8B").memory


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"model": "Llama-9.9-8B"}, "no model called"),
        ({"gpus": "8xH1000"}, "unknown GPU"),
        ({"gpus": 0}, "at least one GPU"),
        ({"method": "lorra"}, "unknown method 'lorra'\nKnown: full, lora"),
        ({"engine": "zero4"}, "unknown engine 'zero4'"),
        ({"length": 10**9}, "no sensible number of tokens"),
        ({"micro_batch": 0}, "must be at least 1"),
        ({"checkpointing": "some"}, "unknown checkpointing"),
        ({"optimizer": "adamz"}, "unknown optimizer"),
    ],
)
def test_refusals_name_the_nearest_possibility(call: dict[str, object], message: str) -> None:
    with pytest.raises(JobError) as caught:
        estimate(**{"model": "Llama-3.1-8B", **call})  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"trainer": "mine"}, "unknown trainer"),
        ({"gpus": 8, "tp": 3}, "does not divide 8 GPUs"),
        ({"gpus": 64, "tp": 64}, "do not split"),
    ],
)
def test_other_trainers_refuse_what_cannot_be(call: dict[str, object], message: str) -> None:
    with pytest.raises(JobError) as caught:
        estimate_other(**{"model": "Llama-3.1-8B", "method": "full", "gpus": 1, "trainer": "megatron", **call})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_adapters_of_the_user() -> None:
    small = estimate("Llama-3.1-8B", "lora", adapters=Adapters(r=4, targets=["q_proj"]))
    assert small.as_json()["trainable_parameters"] == 4 * (4096 + 4096) * 32


@pytest.mark.parametrize(
    ("model", "method", "gpus"),
    [
        ("Llama-3.1-8B", "full", "8xH100-80"),
        ("Llama-3.1-8B", "lora", "1xH100-80"),
        ("Llama-3.1-70B", "full", "32xH100-80"),
        ("Llama-3.1-70B", "lora", "8xH100-80"),
        ("Llama-3.1-70B", "qlora", "1xH100-80"),
        ("Llama-3.1-70B", "qlora", "2xA100-80"),
    ],
)
def test_layouts_that_vendors_publish_fit(model: str, method: str, gpus: str) -> None:
    assert estimate(model, method, gpus, length=4096).verdict in ("fits", "tight")


@pytest.mark.parametrize(
    ("model", "method", "gpus"),
    [
        ("Llama-3.1-8B", "full", "1xA100-80"),
        ("Llama-3.1-70B", "lora", "1xH100-80"),
        ("Llama-3.1-405B", "full", "8xH200-141"),
    ],
)
def test_what_cannot_fit_is_refused(model: str, method: str, gpus: str) -> None:
    assert estimate(model, method, gpus).verdict == "no"


def test_host_memory_with_offload_and_naive_loading() -> None:
    plain, offloaded = (estimate("Llama-3.1-8B", "full", "8xA100-80", offload=o).host for o in ("", "optimizer"))
    assert offloaded.training - plain.training == pytest.approx(16 * 8.03e9 / 2**30, rel=0.01)
    assert plain.load_naive > 3 * plain.load


def test_one_rank_of_the_head_node_reads_the_weights() -> None:
    def host(method: str, engine: str) -> Host:
        return estimate("Llama-3.1-70B", method, "16xH100-80", engine=engine).host

    ranks, numbers = 8 * RUNTIME_GIB, 70.55e9 / 2**30
    assert host("lora", "zero3").load == pytest.approx(2 * numbers + ranks, rel=0.001)
    assert host("full", "zero3").load == pytest.approx(2 * numbers + ranks, rel=0.001)
    assert host("full", "fsdp2").load == pytest.approx(4 * numbers + ranks, rel=0.001), "kept in float32"
    assert host("full", "fsdp2").load_elsewhere == ranks
    packed = host("qlora", "zero1")
    assert packed.load == packed.load_elsewhere < 2 * ranks, "packed on every rank's own GPU, layer after layer"


def test_disk_of_checkpoints_by_hand() -> None:
    disk = estimate("Llama-3.1-8B", keep_checkpoints=2, data_tokens=1_000_000).disk
    assert disk.checkpoint == pytest.approx(12 * 8_030_261_248 / 2**30)
    assert disk.checkpoints == pytest.approx(3 * disk.checkpoint)
    assert disk.data == pytest.approx(4.2e6 / 2**30)


@pytest.mark.parametrize("name", ["tuneyard", *trainers.TRAINERS])
@pytest.mark.parametrize("engine", ["single", "fsdp2", "zero3"])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_trainer_is_estimated_with_everything(name: str, engine: str, method: str) -> None:
    gpus = 1 if engine == "single" else 4
    if name == "tuneyard":
        found = estimate("Llama-3.2-1B", method, gpus, engine=engine)
    else:
        found = estimate_other("Llama-3.2-1B", method, gpus, name, engine=engine)
    assert 0.5 < found.memory.allocated < 60


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("torchtune README@bd2a0fc", "torchtune"),
        ("AnswerDotAI/fsdp_qlora README", "fsdp_qlora"),
        ("QwenLM/Qwen README@2df8e8a", "qwen"),
        ("litgpt config_hub", "litgpt"),
        ("Megatron-Bridge skills", "megatron"),
        ("hiyouga/LLaMA-Factory README", "llamafactory"),
        ("axolotl examples", "axolotl"),
        ("HF+FA2 baseline in unsloth README", "huggingface"),
        ("somebody's blog", "huggingface"),
    ],
)
def test_words_name_a_trainer(words: str, name: str) -> None:
    assert trainers.guess(words) == name


def test_words_about_kernels() -> None:
    base = trainers.named("huggingface", trainers.TrainingSetup())
    assert trainers.reworded(base, "with Liger kernels").loss == "liger"
    assert trainers.reworded(base, "compile on").compiled
    assert not trainers.reworded(base, "AdamW fused").foreach
    assert trainers.reworded(base, "plain").loss == base.loss


def test_our_trainer_is_the_default() -> None:
    trainer = estimate("Llama-3.1-8B", "full", 8).given.trainer
    assert (trainer.trained_bytes, trainer.master, trainer.loss, trainer.foreach) == (4, False, "chunked", False)
    zero = estimate("Llama-3.1-8B", "full", 8, engine="zero2").given.trainer
    assert (zero.trained_bytes, zero.master, zero.grad_bytes, zero.reduce_bucket) == (2, True, 4, 200_000_000)


def test_notes_say_what_is_guessed() -> None:
    notes = estimate("Qwen3-30B-A3B", "qlora").notes
    assert any("experts stay in two bytes" in note for note in notes)
    assert shape_by_name("Qwen3-8B").notes == ()
