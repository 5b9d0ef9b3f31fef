"""Which GPUs are ours: one reading of CUDA_VISIBLE_DEVICES, for the health gate and for the planner."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.agent.health.gpus import read_gpus, visible
from launcher.site.hardware import this_machine
from launcher.sizing.gpus import known_gpu

CARDS = """\
0, GPU-aa11, NVIDIA A100-SXM4-40GB, 4, 40960, 0, Disabled
1, GPU-aa22, NVIDIA A100-SXM4-40GB, 4, 40960, 0, Disabled
2, GPU-bb33, NVIDIA A30, 4, [N/A], [N/A], [N/A]
"""
CUT = CARDS.replace("0, Disabled", "0, Enabled", 1)
LIST = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa11)
  MIG 3g.20gb     Device  0: (UUID: MIG-c738)
  MIG 1g.5gb+me   Device  1: (UUID: MIG-GPU-aa11/9/0)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aa22)
GPU 2: NVIDIA A30 (UUID: GPU-bb33)
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an nvidia-smi on the PATH that answers so."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def answers(cards: str) -> None:
        (tmp_path / "cards").write_text(cards)
        (tmp_path / "list").write_text(LIST)
        (tmp_path / "generations").write_text("0, 8.0\n1, 7.5\n2, 8.0\n")
        words = {"-L": "list", "*compute_cap*": "generations", "*": "cards"}
        cases = " ".join(f"{word}) cat {tmp_path}/{file};;" for word, file in words.items())
        script = f'#!/bin/sh\ncase "$1" in {cases} esac\n'
        (tmp_path / "nvidia-smi").write_text(script)
        (tmp_path / "nvidia-smi").chmod(0o755)

    return answers


@pytest.mark.parametrize(
    ("given", "indices"),
    [
        (None, [0, 1, 2]),
        ("0,1,2", [0, 1, 2]),
        (" 2 , 0 ", [2, 0]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("void", []),
        ("7", []),
        ("1,7,0", [1]),
        ("0,-1,1", [0]),
        ("0,,1", [0]),
        ("0,0", []),
        ("1,GPU-aa22", [1]),
        ("GPU-aa22,0", [1]),
        ("GPU-aa22,GPU-aa22", []),
        ("1abc", [1]),
        ("GPU-bb33,GPU-aa2", [2, 1]),
        ("GPU-aa", []),
        ("GPU-ffff,0", []),
        ("MIG-c738", []),
    ],
)
def test_visible_devices_are_read_as_cuda_does(driver, given: str | None, indices: list[int]) -> None:
    driver(CARDS)
    assert [gpu.index for gpu in visible(read_gpus(), given)] == indices


@pytest.mark.parametrize(
    ("given", "uuids"),
    [
        (None, ["GPU-aa22", "GPU-bb33"]),
        ("MIG-c738", ["MIG-c738"]),
        ("MIG-GPU-aa11/9/0,MIG-c738", ["MIG-GPU-aa11/9/0", "MIG-c738"]),
        ("0", ["MIG-c738"]),
        ("1", ["GPU-aa22"]),
        ("MIG-0000", []),
    ],
)
def test_slices_are_devices_of_their_own(driver, given: str | None, uuids: list[str]) -> None:
    driver(CUT)
    assert [gpu.uuid for gpu in visible(read_gpus(), given)] == uuids


@pytest.mark.parametrize(
    ("given", "num_gpus", "mib"),
    [("NoDevFiles", 0, 0), ("-1", 0, 0), ("GPU-aa22", 1, 40960), ("0,1", 2, 40960), ("2,1", 1, 40960), ("1,1", 0, 0)],
)
def test_the_planner_sees_the_same(driver, monkeypatch, given: str, num_gpus: int, mib: int) -> None:
    driver(CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    machine = this_machine()
    assert (machine.num_gpus, machine.gpu_memory_bytes) == (num_gpus, mib * 2**20)


@pytest.mark.parametrize(("given", "generation"), [("0,2", 8.0), ("0,1", 7.5)])
def test_the_generation_is_that_of_the_gpus_that_are_ours(driver, monkeypatch, given: str, generation: float) -> None:
    """An old card beside those that a run may use does not keep them from bfloat16."""
    driver(CARDS.replace("[N/A], [N/A]", "24576, [N/A]"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert this_machine().compute_capability == generation


def test_a_slice_is_planned_with_its_own_memory_and_without_the_cards_speed(driver, monkeypatch) -> None:
    driver(CUT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-c738")
    machine = this_machine()
    assert machine.gpu_memory_bytes == 19456 * 2**20
    assert known_gpu(machine.gpu_names[0]) is None
