"""Published measurements as a regression: the targets of accuracy hold on the rows that are shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sizing.memory import score
from benchmarks.sizing.memory_rows import CannotPredictError, case_of, cumulated, read_rows, source_name
from benchmarks.sizing.memory_words import number_in

ROOT = Path(__file__).parents[4]
ROWS = ROOT / "benchmarks" / "sizing" / "rows" / "memory.csv"


@pytest.fixture(scope="module")
def scores() -> dict[str, Any]:
    return score(read_rows(ROWS))


def test_allocated_peaks_are_near(scores: dict[str, Any]) -> None:
    assert scores["headline"] == "allocated peaks"
    assert scores["rows"] >= 340
    assert scores["median"] <= 0.03
    assert scores["p90"] <= 0.08


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_method_is_near(scores: dict[str, Any], method: str) -> None:
    assert scores["by_method"][method]["median"] <= 0.03
    assert scores["by_method"][method]["p90"] <= 0.08


def test_nothing_that_went_out_of_memory_was_said_to_fit(scores: dict[str, Any]) -> None:
    assert scores["false_fits"] == 0
    assert sum(scores["verdicts"]["oom"].values()) >= 100
    assert scores["verdicts"]["oom"]["no"] >= 85


def test_hardly_anything_that_fits_is_refused(scores: dict[str, Any]) -> None:
    assert scores["false_no"] == 0
    assert scores["verdicts"]["fits"]["fits"] >= 90


def test_no_row_is_dropped_in_silence(scores: dict[str, Any]) -> None:
    counted = sum(part["rows"] for part in scores["by_kind"].values())
    labelled = sum(sum(row.values()) for row in scores["verdicts"].values())
    assert counted + labelled + sum(scores["not_predicted"].values()) == len(read_rows(ROWS))


def test_nine_of_ten_peaks_lie_in_their_interval(scores: dict[str, Any]) -> None:
    assert scores["inside_interval"] >= 0.9


def row(**changes: str) -> dict[str, str]:
    values = {
        "source": "someone's blog",
        "model": "Llama-3.1-8B",
        "params": "",
        "method": "lora",
        "parallelism": "none",
        "n_gpus": "1",
        "gpu": "A100-80",
        "micro_batch": "2",
        "seq_len": "2048",
        "act_ckpt": "full",
        "precision": "bf16",
        "optimizer": "adamw",
        "measured_value": "24",
        "unit": "GiB",
        "notes": "Q:A r=8 all-linear",
    }
    return values | changes


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"unit": "GiB nvidia-smi"}, "process"),
        ({"unit": "GiB torch peak allocated"}, "allocated"),
        ({"unit": "GB reserved training"}, "reserved"),
        ({"unit": "OOM (no result row)"}, "oom"),
        ({"unit": "GB capacity (FITS label)"}, "fits"),
        ({"measured_value": "OOM"}, "oom"),
        ({"measured_value": "fits"}, "fits"),
        ({"unit": "GB", "source": "litgpt config hub"}, "allocated"),
        ({"unit": "GiB", "source": "torchtitan docs"}, "reserved"),
        ({"unit": "GB/GPU"}, "process"),
    ],
)
def test_what_a_number_is(changes: dict[str, str], found: str) -> None:
    assert case_of(row(**changes)).kind == found


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72.7B", 72.7e9),
        ("350M", 350e6),
        ("8 billion params", 8e9),
        ("7_241_732_096", 7241732096),
        ("8.03e9", 8.03e9),
        ("4,699", 4699),
        ("1,234.5", 1234.5),
        ("41,5", 41.5),
        ("~18.9 GiB", 18.9),
        ("OOM", None),
        ("", None),
    ],
)
def test_numbers_as_people_write_them(text: str, number: float | None) -> None:
    assert number_in(text) == number


@pytest.mark.parametrize("text", ["0", "0.0", "-24", "nan", ""])
def test_what_nobody_can_have_measured_is_counted_as_such(text: str) -> None:
    with pytest.raises(CannotPredictError, match="measured_value is"):
        case_of(row(unit="GiB torch peak allocated", measured_value=text))


def test_units_of_ten_and_of_two() -> None:
    assert case_of(row(unit="GiB", measured_value="24")).gib == 24
    assert case_of(row(unit="GB", measured_value="24")).gib == pytest.approx(24e9 / 2**30)


@pytest.mark.parametrize(
    ("text", "gpus", "engine", "degrees"),
    [
        ("fsdp1 full_shard", "4", "fsdp1", (1, 1)),
        ("FSDP2", "8", "fsdp2", (1, 1)),
        ("deepspeed zero3 cpu offload", "2", "zero3", (1, 1)),
        ("tp4 pp2 megatron", "8", "megatron", (4, 2)),
        ("ddp", "2", "ddp", (1, 1)),
        ("none", "1", "single", (1, 1)),
    ],
)
def test_layouts_in_words(text: str, gpus: str, engine: str, degrees: tuple[int, int]) -> None:
    layout = case_of(row(parallelism=text, n_gpus=gpus)).given.layout
    assert (layout.engine, (layout.tp, layout.pp), layout.ranks) == (engine, degrees, int(gpus))


def test_adapters_in_words() -> None:
    adapters = case_of(row(notes="Q:A framework=x; lora r=16.0 q_proj k_proj v_proj o_proj")).given.layout.adapters
    assert adapters is not None
    assert (adapters.r, sorted(adapters.targets)) == (16, sorted(f"self_attn.{n}_proj" for n in "qkvo"))


@pytest.mark.parametrize(
    ("method", "notes", "r", "roles"),
    [
        ("lora", "Q:A rank32; trainable=9175040", 32, "qv"),
        ("lora", "Q:A trainable=9,175,040", 32, "qv"),
        ("lora", "Q:A rank8; trainable=4587520", 8, "koqv"),
        ("lora", "Q:A rank32-fa; trainable=3670016", 32, "qv"),
        ("hira", "Q:A trainable=9175040", 32, "qv"),
        ("ln_tuning", "Q:A trainable=175104", 16, ""),
    ],
)
def test_what_trains_tells_which_projections_have_adapters(method: str, notes: str, r: int, roles: str) -> None:
    told = {"model": "Llama-3.2-3B", "params": "3212749824", "method": method, "notes": notes}
    adapters = case_of(row(**told)).given.layout.adapters
    assert adapters is not None and adapters.r == r
    assert sorted(adapters.targets) == [f"self_attn.{role}_proj" for role in roles]


def test_prompt_tuning_lengthens_every_sequence() -> None:
    told = {"model": "Llama-3.2-3B", "params": "3212749824", "method": "prompt_tuning", "seq_len": "768"}
    assert case_of(row(**told, notes="Q:A trainable=614400")).given.layout.length == 768 + 200


def test_a_method_that_trains_a_good_part_of_the_weights_is_no_adapter() -> None:
    told = {"model": "Llama-3.2-3B", "params": "3212749824", "method": "osf", "notes": "Q:A trainable=194535936"}
    with pytest.raises(CannotPredictError, match="method 'osf'"):
        case_of(row(**told))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "nobody-knows"}, "the shape of 'nobody-knows' is not known"),
        ({"seq_len": ""}, "seq_len is not given"),
        ({"micro_batch": ""}, "micro_batch is not given"),
        ({"unit": "GB (vendor minimum)"}, "a vendor's minimum"),
        ({"parallelism": "megatron", "n_gpus": "8"}, "how the model is split"),
        ({"method": "rlhf"}, "method 'rlhf'"),
    ],
)
def test_reasons_why_not(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(CannotPredictError, match=reason):
        case_of(row(**changes))


def test_steps_of_a_cumulative_ablation_hold_for_later_ones() -> None:
    steps = ("Baseline unpacked", "+packed", "+compile", "+chunked CE")
    notes = [r["notes"] for r in cumulated([row(notes=f"Q:A cumulative ablation step: {s}") for s in steps])]
    assert "whole fp32 loss" in notes[2]
    assert notes[3] == "Q:A : +packed; +compile; +chunked CE"


def test_sources_are_projects() -> None:
    assert source_name("fms-acceleration scripts/refs/a.csv@24bdadb") == "fms-acceleration"
    assert source_name("huggingface/peft docs@5d602fd") == "peft"


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "benchmarks.sizing", str(ROWS), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"rows", "median", "p90", "worst_under", "false_fits", "by_method"} <= json.loads(done.stdout)[
        "memory"
    ].keys()
