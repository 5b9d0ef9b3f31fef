"""The score of the speed model: units, what rows leave open, what is left out and why, and the bar on shipped rows."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sizing.speed import is_speed_row, kendall, per_gpu, read_all, render, score, scored
from benchmarks.sizing.speed_rows import UnreadableError, read_row
from launcher.sizing.layout import Adapters
from launcher.sizing.speed.kernels import FITTED

ROOT = Path(__file__).parents[4]
SHIPPED = ROOT / "benchmarks" / "sizing" / "rows" / "speed.csv"
ROW = {
    "source": "somebody README@1",
    "model": "Llama-3.1-8B",
    "params": "8030261248",
    "method": "full",
    "parallelism": "fsdp2",
    "n_gpus": "8",
    "gpu": "H100-80",
    "micro_batch": "2",
    "seq_len": "4096",
    "act_ckpt": "full",
    "precision": "bf16",
    "optimizer": "AdamW",
    "measured_value": "6000",
    "unit": "tokens/s/GPU",
    "notes": "Q:A compile",
}


def shipped() -> list[dict[str, str]]:
    with SHIPPED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_the_bar_on_shipped_rows() -> None:
    found = score(shipped())
    assert found["rows"] > 500
    assert found["median"] <= 0.12
    assert found["kendall_tau"] >= 0.8
    assert sum(found["not_predicted"].values()) + found["rows"] == len(shipped())
    assert "median" in render(found)


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("tokens/s/GPU", "6000", 6000),
        ("tokens/s", "48000", 6000),
        ("tokens/s (as printed; total or per-GPU not stated)", "48000", 6000),
        ("samples/s", "11.71875", 6000),
        ("s/iter", "1.3653333", 6000),
        ("seconds/step", "1.3653333", 6000),
        ("ms/step", "1365.3333", 6000),
    ],
)
def test_units(unit: str, value: str, expected: float) -> None:
    reading = read_row(ROW | {"unit": unit, "measured_value": value, "notes": "compile, GBS 16"})
    assert per_gpu(reading)[0] == pytest.approx(expected, rel=1e-3)
    assert is_speed_row({"unit": unit})


def test_mfu_and_tflops_agree() -> None:
    mfu = per_gpu(read_row(ROW | {"unit": "MFU %", "measured_value": "40"}))[0]
    tflops = per_gpu(read_row(ROW | {"unit": "TFLOP/s/GPU", "measured_value": str(0.4 * 989)}))[0]
    assert mfu == pytest.approx(tflops)


def test_memory_rows_are_no_speed_rows() -> None:
    assert not any(is_speed_row({"unit": unit}) for unit in ("GiB", "GiB reserved", "max context tokens", "OOM"))


def test_words_of_a_row() -> None:
    layout = read_row(ROW | {"parallelism": "tp2 pp2 cp2 vp5", "notes": "GBS 64"}).given.layout
    degrees = (layout.tp, layout.pp, layout.sequence_parallel, layout.virtual_stages)
    assert (degrees, layout.accumulation) == ((2, 2, 2, 5), 32)
    assert read_row(ROW | {"notes": "Liger"}).given.trainer.stack == "fused"
    assert read_row(ROW | {"source": "unsloth blog", "notes": ""}).given.trainer.stack == "unsloth"
    assert read_row(ROW | {"notes": "kernel=eager"}).given.trainer.attention == "eager"
    quantised = read_row(ROW | {"method": "qlora", "precision": "bf16 nf4", "notes": "TRL r=8 all-linear"}).given.layout
    assert (quantised.quantization, quantised.adapters) == ("nf4", Adapters(r=8, targets="all-linear"))
    assert read_row(ROW | {"act_ckpt": "", "micro_batch": "32"}).given.layout.checkpointing == "full"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "unspecified"}, "unknown GPU"),
        ({"seq_len": ""}, "no sequence length"),
        ({"measured_value": "OOM"}, "no number"),
        ({"measured_value": "0.0"}, "no number"),
        ({"measured_value": "-6000"}, "no number"),
        ({"unit": "joules"}, "unit"),
        ({"parallelism": "tp3"}, "no multiple"),
        ({"model": "granite-4.0-tiny-preview"}, "state-space"),
    ],
)
def test_what_cannot_be_predicted_is_counted(change: dict[str, str], reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        read_row(ROW | change)
    found = score([ROW | change, ROW])
    assert found["rows"] == 1
    assert sum(found["not_predicted"].values()) == 1


def test_forward_passes_that_nobody_states_are_settled_for_all_rows_of_a_source() -> None:
    readings, _ = read_all([ROW])
    speed = scored(ROW, readings[0][1], 1.0, FITTED).predicted
    rows = [
        ROW | {"unit": "s/iter", "notes": "compile", "measured_value": str(8 * 2 * 4096 / speed * factor)}
        for factor in (0.9, 1.0, 1.1)
    ]
    found = score(rows)
    assert found["ambiguous"] == {"forward passes per step": 3}
    assert found["median"] < 0.12
    assert found["without_ambiguous"]["rows"] == 0


def test_kendall_sees_order_only_where_there_is_one() -> None:
    reading = read_row(ROW)
    pairs = [(100.0, 90.0, "1"), (200.0, 210.0, "2"), (201.0, 50.0, "4")]
    done = [
        replace(scored(ROW, reading, measured, FITTED), row=ROW | {"micro_batch": size}, predicted=predicted)
        for measured, predicted, size in pairs
    ]
    assert kendall(done[:2]) == 1.0
    assert kendall(done[1:]) is None
    assert kendall([done[0], done[2]]) == -1.0


def test_the_command_prints_json() -> None:
    command = [sys.executable, "-m", "benchmarks.sizing", str(SHIPPED), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert '"speed"' in done.stdout
