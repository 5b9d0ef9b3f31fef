"""What a configuration tells of a model: packing that is off, and models that are refused before anything is queued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sizing.other_trainers import estimate_other
from launcher.cli import run
from launcher.jobfile import SettingError, load_job
from launcher.planner.plan import Plan, make_plan
from launcher.site.hardware import Machine
from tests.unit.trainer.model.test_architectures import rows
from trainer.capabilities import refusal, why_unpacked

BLOOM = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 96,
}
JOB = """\
name: told
model: {path: model, attention: ATTENTION}
data: {train: [{path: rows.jsonl}], max_length: 64PACKING}
training: {max_steps: 2, tokens_per_step: 128}
resources: {gpu: none, cpu_ranks: 1}
"""


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    """The plan of a model of which there is only the configuration."""

    def make(config: dict[str, Any], attention: str = "auto", packing: str = "") -> Plan:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        (tmp_path / "model" / "tokenizer.json").write_text("{}")
        (tmp_path / "rows.jsonl").write_text('{"text": "one two"}\n')
        file = tmp_path / "job.yaml"
        file.write_text(JOB.replace("ATTENTION", attention).replace("PACKING", packing))
        return make_plan(load_job(file).job, Machine(num_cores=2, memory_bytes=8 * 1024**3))

    return make


def test_layers_of_their_own_train_without_packing(planned: Callable[..., Plan]) -> None:
    plan = planned(BLOOM)
    assert (plan.trainer.model.attention, plan.trainer.data.packing) == ("own", False)
    assert "data.packing" in {decision.setting for decision in plan.decisions}
    plan = planned(LLAMA)
    assert (plan.trainer.model.attention, plan.trainer.data.packing) == ("padded", True)
    plan = planned(LLAMA, attention="own")
    assert (plan.trainer.model.attention, plan.trainer.data.packing) == ("own", False)


@pytest.mark.parametrize(
    ("config", "changes", "setting"),
    [
        (BLOOM, {"packing": ", packing: true"}, "data.packing"),
        (BLOOM, {"attention": "padded"}, "model.attention"),
        (LLAMA, {"attention": "flash"}, "model.attention"),
        pytest.param({**LLAMA, "model_type": "bert"}, {}, "model.path", marks=pytest.mark.models),  # counted by torch
        ({**LLAMA, "is_encoder_decoder": True}, {}, "model.path"),
        ({**LLAMA, "model_type": "qwen2_vl"}, {}, "model.path"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_setting(
    planned: Callable[..., Plan], config: dict[str, Any], changes: dict[str, str], setting: str
) -> None:
    with pytest.raises(SettingError) as caught:
        planned(config, **changes)
    assert caught.value.setting == setting
    assert caught.value.remedy


def how(config: dict[str, Any], max_length: int = 4096) -> str:
    """What the table says of a model."""
    if refused := refusal(config):
        assert refused.message and refused.remedy
        return "refused"
    return "alone" if why_unpacked(config, max_length) else "packed"


@pytest.mark.parametrize("family", rows())
def test_what_plan_says_of_a_family_is_what_its_tiny_model_shows(family: str) -> None:
    assert how({"model_type": family}) == rows()[family]


ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "alone"),
        ({"model_type": "lfm2", "full_attn_idxs": [2, 5]}, "alone"),
        ({"model_type": "granitemoehybrid", "layer_types": ["attention", "attention"]}, "packed"),
        ({"model_type": "llama4_text", "attn_temperature_tuning": False}, "packed"),
        ({"model_type": "llama4", "text_config": {"attn_temperature_tuning": False}}, "packed"),
        ({"model_type": "llama4_text", "attn_temperature_tuning": False, "attention_chunk_size": 8}, "alone"),
        ({"model_type": "qwen4_exp_text", "indexer_n_heads": 4}, "alone"),
        ({"model_type": "cohere_compass_text", "rope_parameters": {"full_attention": ROPE}}, "packed"),
        ({"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}}, "refused"),
        ({"model_type": "gemma4_assistant", "text_config": {"model_type": "gemma4_text"}}, "refused"),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, "refused"),
        ({"model_type": "qwen2_vl", "auto_map": {"AutoModelForCausalLM": "own.Model"}}, "packed"),
        ({"model_type": "a type of its own"}, "packed"),
    ],
)
def test_switches_of_a_family_count(config: dict[str, Any], expected: str) -> None:
    """What tiny models of Transformers 5.23 with these settings showed."""
    assert how(config) == expected


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["estimate", "--gpus", "1xH100-80"], 2),
        (["advise"], 2),
    ],
)
def test_what_plan_refuses_is_sized_for_other_trainers_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], code: int
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**LLAMA, "model_type": "qwen2_vl"}))
    assert run([*command, "--model", str(file)]) == code
    assert "qwen2_vl" in capsys.readouterr().err
    assert estimate_other(file, "lora", "1xH100-80", "trl").verdict == "fits"
