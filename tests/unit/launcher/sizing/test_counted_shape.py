"""Architectures that nobody described: counted to the last parameter, and sized with room for what is not known."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from launcher import estimate
from launcher.cli import run as tuneyard
from launcher.errors import JobError
from launcher.sizing.memory.limits import COUNTED_SPREAD, Memory
from launcher.sizing.shape import config_by_name, is_described, model_names, read_config, shape_by_name, shape_of_folder
from launcher.sizing.shape.counted import Counted, require_code, shape_of_tensors
from tests.support.tiny import make_model, make_tokenizer

pytestmark = pytest.mark.models

SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
UNKNOWN = ("glm4", "cohere2", "nemotron", "gptj", "mamba", "jamba", "olmoe", "xglm")
"""Dense ones with odd norms, parallel residuals and biases, state spaces, hybrids, experts, learned positions."""


def saved(folder: Path, kind: str, *, weights: bool, tied: bool = False) -> int:
    """A small model of a kind in a folder, with or without its weights; its number of parameters."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in SMALL.items() if kind != "mamba" or "head" not in key}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings, tie_word_embeddings=tied))
    if weights:
        model.save_pretrained(folder)
    else:
        model.config.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("kind", UNKNOWN)
def test_totals_equal_those_of_the_model_itself(kind: str, tmp_path: Path) -> None:
    files, code = tmp_path / "files", tmp_path / "code"
    total = saved(files, kind, weights=True)
    assert saved(code, kind, weights=False) == total
    assert not is_described(read_config(files / "config.json"))
    by_headers, by_code = shape_of_folder(files), shape_of_folder(code)
    assert (by_headers.counted, by_code.counted) == ("safetensors headers", "the meta device")
    assert (by_headers.num_parameters, by_code.num_parameters) == (total, total)
    assert sum(tensor.num_parameters for layer in by_code.layers for tensor in layer.tensors()) < total
    assert (by_code.num_layers, by_code.hidden_size, by_code.vocab_size) == (3, 32, 512)
    if kind != "mamba":
        assert (by_code.num_heads, by_code.head_dim) == (4, 8)
    assert any("heads" in note for note in by_code.notes) == (kind == "mamba")


@pytest.mark.parametrize("weights", [True, False])
def test_tied_embeddings_count_once(weights: bool, tmp_path: Path) -> None:
    total = saved(tmp_path, "cohere2", weights=weights, tied=True)
    shape = shape_of_folder(tmp_path)
    assert (shape.num_parameters, shape.tied_embeddings) == (total, True)


def test_files_that_are_not_all_there_are_not_counted(tmp_path: Path) -> None:
    total = saved(tmp_path, "glm4", weights=True)
    names = {f"w{number}": f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)}
    (tmp_path / "model.safetensors").rename(tmp_path / names["w1"])
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    shape = shape_of_folder(tmp_path)
    assert (shape.counted, shape.num_parameters) == ("the meta device", total)


def test_packed_files_are_not_counted(tmp_path: Path) -> None:
    total = saved(tmp_path, "glm4", weights=True)
    config = read_config(tmp_path / "config.json")
    packed = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": packed}))
    assert shape_of_folder(tmp_path).counted == "the meta device"
    assert shape_of_folder(tmp_path).num_parameters == total


def test_code_beside_a_model_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "modeling_mine.py").write_text(f"open({str(mark)!r}, 'w')\n")
    auto_map = {"AutoConfig": "modeling_mine.Config", "AutoModelForCausalLM": "modeling_mine.Model"}
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "mine", "auto_map": auto_map}))
    with pytest.raises(JobError, match="unknown model type 'mine', and it cannot be counted"):
        shape_of_folder(tmp_path)
    assert not mark.exists()


def test_what_nobody_knows_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "lamma"}))
    with pytest.raises(JobError, match=r"unknown model type 'lamma'.*Transformers does not know it either") as refused:
        shape_of_folder(tmp_path)
    assert "Nearest known types: llama" in refused.value.remedy
    assert "safetensors" in refused.value.remedy


def test_without_torch_it_is_said_what_to_install(tmp_path: Path) -> None:
    saved(tmp_path, "glm4", weights=False)
    hide = "import sys, importlib.machinery as m\nfind = m.PathFinder.find_spec\n"
    hide += "m.PathFinder.find_spec = classmethod(lambda c, n, *a: None if n == 'torch' else find(n, *a))\n"
    code = f"{hide}from launcher.cli import run\nsys.exit(run(['estimate', '--model', {str(tmp_path)!r}, "
    code += "'--gpus', '1xH100-80']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch, not installed here" in done.stderr
    assert "pip install" in done.stderr and "[train]" in done.stderr
    saved(tmp_path, "glm4", weights=True)
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert again.returncode == 0, "headers need no torch"


def test_described_models_come_out_much_the_same_when_counted() -> None:
    """What a counted shape does not know, held against what descriptions know: the size of the margin."""
    apart = []
    for name in model_names():
        known = shape_by_name(name)
        tensors = list(known.tensors())
        if max(Counter(tensor.name for tensor in tensors).values()) > 1:
            continue  # stacked experts, which the description lists one by one under one name
        found = Counted(source="names", tensors={tensor.name: tensor.dims for tensor in tensors})
        counted = shape_of_tensors(config_by_name(name), found)
        assert counted.num_parameters == known.num_parameters
        for method, checkpointing in (("full", "full"), ("lora", "none"), ("qlora", "full")):
            layout = {"length": 4096, "micro_batch": 4, "checkpointing": checkpointing}
            sizes = [estimate(shape, method, 8, **layout).memory.allocated for shape in (counted, known)]  # type: ignore[arg-type]
            apart.append(sizes[0] / sizes[1] - 1)
    assert len(apart) > 300
    assert statistics.quantiles([abs(one) for one in apart], n=10)[8] < COUNTED_SPREAD / 2
    assert min(apart) > -COUNTED_SPREAD / 2, "what is said too low costs a run"
    assert max(apart) < 3 * COUNTED_SPREAD


def test_verdicts_leave_room_on_both_sides() -> None:
    def verdict(process: float, margin: float) -> str:
        sizes = {"allocated": process, "reserved": process, "process": process, "nvidia_smi": process}
        return Memory(phases=(), **sizes, interval=(0, 0), usable=100, margin=margin).verdict

    assert [verdict(size, 0) for size in (89, 95, 105, 110)] == ["fits", "tight", "uncertain", "no"]
    assert [verdict(size, 15) for size in (74, 81, 89, 110, 125)] == ["fits", "tight", "uncertain", "uncertain", "no"]


JOB = """
name: odd
model: {path: ./model}
data:
  train: [{path: ./rows.jsonl}]
  max_length: 256
training: {max_steps: 5, tokens_per_step: 2048}
resources: {gpu: none, cpu_ranks: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there"}]
    (tmp_path / "rows.jsonl").write_text((json.dumps({"messages": messages}) + "\n") * 30)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "model").mkdir()
    return tmp_path


def test_plan_and_check_take_a_counted_shape_and_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tokenizer(folder / "model")
    total = saved(folder / "model", "glm4", weights=True)
    for options in ([], ["--gpu", "2xA100-80"]):
        assert tuneyard(["plan", "job.yaml", "--json", *options]) == 0
        plan = json.loads(capsys.readouterr().out)
        said = next(one for one in plan["decisions"] if one["setting"] == "model.shape")
        assert f"{total:,}" in said["value"]
        assert "glm4 unknown" in said["reason"]
        assert "15 % of memory is left free" in said["reason"]
        assert plan["prediction"]["components_bytes"]["unknown_architecture"] > 0
        raw = plan["prediction"]["uncorrected"]["peak_bytes"]
        assert plan["prediction"]["peak_bytes"] > raw, "and runs are held against the model's own word"
    assert tuneyard(["check", "job.yaml"]) == 0


def test_estimate_says_what_is_uncertain(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(folder / "model", "olmoe", weights=False)
    assert tuneyard(["estimate", "--model", "model", "--gpus", "1xH100-80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any("olmoe unknown" in words for words in found["cautions"])
    shape = shape_of_folder(folder / "model")
    low, high = estimate(shape, "full", 1).memory.interval
    assert high / low > 1.27 / 0.74


def test_a_job_with_an_uncountable_model_is_refused_at_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tokenizer(folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps({**SMALL, "model_type": "lamma"}))
    assert tuneyard(["plan", "job.yaml"]) == 2
    said = capsys.readouterr().err
    assert "job.yaml:3" in said
    assert "llama" in said


def test_a_type_that_transformers_lacks_can_be_counted_and_not_trained(tmp_path: Path) -> None:
    """Nobody could train it: that is said before a GPU is asked for, unless its code comes along."""
    make_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    unknown = {**config, "model_type": "lama"}
    (tmp_path / "config.json").write_text(json.dumps(unknown))
    assert shape_of_folder(tmp_path).counted == "safetensors headers"
    with pytest.raises(JobError, match=r"(?s)lama.*has no code here.*llama"):
        require_code(tmp_path, "its config.json")
    (tmp_path / "config.json").write_text(json.dumps(unknown | {"auto_map": {"AutoConfig": "code.Config"}}))
    require_code(tmp_path, "its config.json")
