"""`tuneyard estimate`: what it prints, that it says the same from Python, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks.sizing import other_trainers
from launcher.cli import tuneyard
from launcher.errors import JobError
from launcher.planner.ask.estimate import estimate
from launcher.planner.ask.estimate_question import EstimateQuestion, answer
from launcher.sizing.gpus import parse_gpus
from launcher.sizing.speed.amounts import hours_of, number_of, total_tokens


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tuneyard, ["estimate", *arguments])


def as_json(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_memory_speed_and_cost() -> None:
    found = as_json(
        "--model", "llama-3.1-8b", "--method", "lora", "--gpus", "8xH100-80", "--tokens", "30M", "--epochs", "2"
    )
    assert found["verdict"] == "fits"
    assert found["allocated_gib"] <= found["process_gib"] <= found["nvidia_smi_gib"] <= found["usable_gib"]
    assert found["bill"]["tokens"] == 60_000_000
    assert found["bill"]["cost_usd"] > 0
    assert found["bill"]["price_note"]
    assert found["speed"]["step_seconds"] == pytest.approx(sum(found["speed"]["parts_seconds"].values()))


def test_text_has_bars_and_a_price_with_its_date() -> None:
    result = run("--model", "qwen2.5-7b", "--method", "qlora", "--gpus", "4090", "--rows", "20k", "--walltime", "1h")
    assert result.exit_code == 0, result.output
    for word in ("verdict", "##", "matrix products", "tokens/s per GPU", "USD", "2026", "slices"):
        assert word in result.output


def test_the_same_numbers_from_python() -> None:
    asked = "--engine zero3 --micro-batch 2 --accumulation 1 --checkpointing full --length 4096"
    shown = as_json("--model", "llama-3-8b", "--method", "full", "--gpus", "8xA100-80", *asked.split())
    made = estimate("llama-3-8b", "full", "8xA100-80", engine="zero3", micro_batch=2, length=4096).as_json()
    assert {name: shown[name] for name in made} == json.loads(json.dumps(made))


def test_seventy_billion_takes_as_few_gpus_as_nvidia_takes() -> None:
    for method, gpus, verdicts in (
        ("full", 32, ("fits", "tight")),
        ("lora", 8, ("fits", "tight")),
        ("full", 8, ("no",)),
    ):
        question = EstimateQuestion(
            model="llama-3.1-70b", method=method, gpus=parse_gpus(f"{gpus}xH100-80"), length=4096
        )
        assert answer(question).estimate.verdict in verdicts, (method, gpus)


def test_what_does_not_fit_comes_with_what_would() -> None:
    found = answer(EstimateQuestion(model="llama-3.1-70b", method="full", gpus=parse_gpus("8xH100"), length=4096))
    assert not found.fits
    assert "--method lora" in found.suggestions
    assert any(words.startswith("--gpus") for words in found.suggestions)


def test_a_price_of_ones_own(tmp_path: Path) -> None:
    common = ("--model", "llama-3-8b", "--gpus", "1xB300", "--tokens", "1M")
    assert as_json(*common)["bill"]["cost_usd"] is None
    assert as_json(*common, "--price", "6")["bill"]["usd_per_gpu_hour"] == 6
    prices = tmp_path / "p.json"
    prices.write_text('{"B300": 7}')
    assert as_json(*common, "--prices", str(prices))["bill"]["usd_per_gpu_hour"] == 7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "llama-9-8b", "--gpus", "H100"), "llama"),
        (("--model", "llama-3-8b", "--gpus", "8xZ100"), "Nearest known"),
        (("--model", "llama-3-8b", "--gpus", "H100", "--length", "9999999999"), "4,194,304"),
        (("--model", "llama-3-8b", "--gpus", "H100", "--method", "magic"), "qlora"),
        (("--model", "llama-3-8b", "--gpus", "H100", "--tokens", "many"), "30M"),
        (("--model", "llama-3-8b", "--gpus", "H100", "--walltime", "soon"), "4h"),
        (("--model", "llama-3-8b", "--gpus", "H100", "--price", "-1"), "above 0"),
        (("--model", "llama-3-8b", "--gpus", "8xH100", "--engine", "magic"), "zero3"),
    ],
)
def test_refusals_name_what_is_possible(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, JobError), result.output
    assert words in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("magic", "--model", "llama-3-8b", "--gpus", "H100"), "trl"),
        (("megatron", "--model", "llama-3-8b", "--gpus", "6xH100", "--tp", "4"), "multiple"),
    ],
)
def test_other_trainers_refuse_alike(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(other_trainers.main, arguments)
    assert result.exit_code == 1
    assert words in result.output


def test_amounts() -> None:
    assert (number_of("1.5B", ""), number_of("12k", ""), number_of("30,000", ""), number_of("", "")) == (
        1_500_000_000,
        12_000,
        30_000,
        0,
    )
    assert total_tokens("", "10k", 300, 2) == 6_000_000
    assert (hours_of("90m"), hours_of("2d"), hours_of("")) == (1.5, 48, 0)
    with pytest.raises(JobError, match="epochs"):
        total_tokens("1M", "", 0, 0)


def test_no_heavy_package_is_loaded() -> None:
    code = (
        "import sys; from launcher.cli import run; "
        "run(['estimate', '--model', 'llama-3.1-405b', '--gpus', '64xH100', '--json']); "
        "sys.exit(bool({'torch', 'numpy', 'transformers'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_what_does_not_fit_ends_with_a_code_of_its_own(capsys) -> None:
    from launcher.cli import run

    assert run(["estimate", "--model", "llama-3.1-8b", "--method", "qlora", "--gpus", "1xA100-40"]) == 0
    assert run(["estimate", "--model", "llama-3.1-405b", "--method", "full", "--gpus", "1xT4", "--json"]) == 6
    capsys.readouterr()
    assert run(["estimate", "--model", "llama-3.1-405b", "--method", "full", "--gpus", "1xT4"]) == 6
    assert "nothing near" in capsys.readouterr().out
    assert run(["estimate", "--model", "llama-3.1-70b", "--method", "full", "--gpus", "8xH100-80"]) == 6
    assert "--method lora" in capsys.readouterr().out


@pytest.mark.parametrize(("method", "code"), [("lora", 0), ("full", 6)])
def test_gpus_without_bfloat16_are_sized_in_float32(capsys: pytest.CaptureFixture[str], method: str, code: int) -> None:
    from launcher.cli import run

    assert run(["estimate", "--model", "llama-3.2-1b", "--method", method, "--gpus", "1xT4", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["components_gib"]["weights"] == pytest.approx(4 * found["parameters"] / 1024**3, rel=0.02)
    assert found["allocated_gib"] == pytest.approx(sum(found["components_gib"].values()), abs=0.02)
    assert found["allocated_gib"] < found["process_gib"] <= found["nvidia_smi_gib"]
