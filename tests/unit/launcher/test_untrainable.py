"""What a configuration tells of a model: packing that is off, and models that are refused before anything is queued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.hardware import Machine
from launcher.jobfile import SettingError, load_job
from launcher.plan import Plan, make_plan

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
        ({**LLAMA, "model_type": "bert"}, {}, "model.path"),
        ({**LLAMA, "is_encoder_decoder": True}, {}, "model.path"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_setting(
    planned: Callable[..., Plan], config: dict[str, Any], changes: dict[str, str], setting: str
) -> None:
    with pytest.raises(SettingError) as caught:
        planned(config, **changes)
    assert caught.value.setting == setting
    assert caught.value.remedy
