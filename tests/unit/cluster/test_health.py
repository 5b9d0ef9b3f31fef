"""The health gate: real checks of this machine, and GPUs as a recorded nvidia-smi tells them."""

import os
import time
from pathlib import Path

import pytest

from cluster.agent.health import checks as health
from cluster.agent.health import gpus
from cluster.agent.health.checks import Check, CheckTarget, gate, run_checks
from rundir.errors import RunDirError
from rundir.plan import HealthSettings, LaunchSpec

H100 = "{n}, GPU-{n}d1e8cc3-0000-1111-2222-333344445555, NVIDIA H100 80GB HBM3, {used}, 81559, {ecc}"


def launch(device: str = "cpu", ranks: int = 2, **settings) -> LaunchSpec:
    return LaunchSpec(
        nodes=1,
        ranks_per_node=ranks,
        device=device,
        threads_per_rank=1,
        grace_seconds=60.0,
        phases=("prepare",),
        health=HealthSettings.from_json(settings),
    )


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts an nvidia-smi on the PATH that answers what was recorded."""
    monkeypatch.setattr(gpus, "_FREEING_SECONDS", 0.0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def answers(cards: str, apps: str = "", code: int = 0) -> None:
        (folder / "cards").write_text(cards)
        (folder / "apps").write_text(apps)
        script = (
            f'#!/bin/sh\ncase "$1" in *compute-apps*) cat {folder}/apps;; *) cat {folder}/cards;; esac\nexit {code}\n'
        )
        (folder / "nvidia-smi").write_text(script)
        (folder / "nvidia-smi").chmod(0o755)

    return answers


def cards(*used: int, ecc: str = "0") -> str:
    return "".join(H100.format(n=n, used=mib, ecc=ecc) + "\n" for n, mib in enumerate(used))


def gpu_check(tmp_path: Path, ranks: int = 2) -> Check:
    return health.check_gpus(CheckTarget(tmp_path, launch("cuda", ranks)))


def test_idle_gpus_pass(nvidia_smi, tmp_path: Path) -> None:
    nvidia_smi(cards(4, 4))
    assert gpu_check(tmp_path) == Check("gpus", True, "2 x NVIDIA H100 80GB HBM3, idle")
    nvidia_smi(cards(4, 4, ecc="[N/A]"))  # a card without ECC
    assert gpu_check(tmp_path).ok


@pytest.mark.parametrize(
    ("told", "apps", "words"),
    [
        (cards(4), "", "1 GPU, 2 needed"),
        (cards(4, 4, ecc="3"), "", "GPU 0 has 3 uncorrectable ECC errors; GPU 1 has 3 uncorrectable ECC errors"),
        (cards(4, 70123), "", "GPU 1 has 70123 of 81559 MiB in use by somebody unseen"),
        (
            cards(4, 70123),
            "GPU-1d1e8cc3-0000-1111-2222-333344445555, 4242, /usr/bin/python3\n",
            "GPU 1 is used by process 4242 (/usr/bin/python3)",
        ),
        ("one, two\n", "", "nvidia-smi: cannot be understood: invalid literal for int() with base 10: 'one'"),
    ],
)
def test_gpus_that_are_not_fit(nvidia_smi, tmp_path: Path, told: str, apps: str, words: str) -> None:
    nvidia_smi(told, apps)
    assert gpu_check(tmp_path) == Check("gpus", False, words)


def test_the_multi_process_service_is_nobodys_work(nvidia_smi, tmp_path: Path) -> None:
    nvidia_smi(cards(30, 30), "GPU-0d1e8cc3-0000-1111-2222-333344445555, 7, nvidia-cuda-mps-server\n")
    assert gpu_check(tmp_path).ok


def test_only_gpus_that_are_given_to_us_count(nvidia_smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(cards(4, 70123, 4))
    for given in ("0,2", "GPU-0d1e8,GPU-2d1e8cc3-0000-1111-2222-333344445555"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert gpu_check(tmp_path).ok
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu_check(tmp_path).words == "1 GPU, 2 needed"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_check(tmp_path).words == "0 GPUs, 2 needed"


def test_a_driver_that_fails_or_is_not_there_says_so(nvidia_smi, tmp_path: Path, monkeypatch) -> None:
    nvidia_smi("Unable to determine the device handle for GPU0000:3B:00.0: Unknown Error\n", code=255)
    assert gpu_check(tmp_path).words.startswith("nvidia-smi: Unable to determine the device handle")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_check(tmp_path).words.startswith("nvidia-smi: not found")


def test_this_machine_passes_and_quickly(tmp_path: Path) -> None:
    began = time.monotonic()
    checks = run_checks(tmp_path, launch())
    assert time.monotonic() - began < 1.0  # measured: 0.02 s; the rest is slack for a busy machine
    assert [check.name for check in checks] == ["gpus", "memory", "disk", "storage", "clock", "network"]
    assert gate(checks, "n") is None
    assert list(tmp_path.iterdir()) == []


def test_checks_can_be_left_out(tmp_path: Path) -> None:
    assert [check.name for check in run_checks(tmp_path, launch(skip=["gpus", "network", "clock"]))] == [
        *("memory", "disk", "storage")
    ]


@pytest.mark.parametrize(
    ("settings", "name", "outcome", "blames"),
    [
        ({"free_disk_bytes": 2**80}, "disk", "crashed", "storage"),
        ({"free_memory_bytes": 2**80}, "memory", "node_failure", "node"),
    ],
)
def test_too_little_room_closes_the_gate(tmp_path: Path, settings, name: str, outcome: str, blames: str) -> None:
    verdict = gate(run_checks(tmp_path, launch(**settings)), "node-7")
    assert verdict is not None
    assert verdict.outcome == outcome
    assert verdict.cause.startswith(f"health: {name}: ")
    assert "GiB needed" in verdict.cause
    assert [(proof.node, proof.blames) for proof in verdict.evidence] == [("node-7", blames)]
    assert verdict.remedy


def test_a_storage_that_cannot_be_written_is_the_storages_fault(tmp_path: Path) -> None:
    check = health.check_storage(CheckTarget(tmp_path / "gone", launch()))
    assert (check.ok, check.blames) == (False, "storage")
    assert check.words.endswith("No such file or directory")


def test_own_checks_are_run_and_their_last_line_is_the_reason(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(health, "_OWN_CHECK_SECONDS", 0.5)
    own = [
        ["sh", "-c", "echo fine; echo all links up"],
        ["sh", "-c", "echo looking; echo link 3 is down >&2; exit 4"],
        ["false"],
        ["sleep", "60"],
        ["no-such-check"],
    ]
    checks = run_checks(tmp_path, launch(checks=own, skip=list(health.BUILT_IN)))
    assert [(check.name, check.ok, check.words) for check in checks] == [
        ("sh", True, "all links up"),
        ("sh", False, "link 3 is down"),
        ("false", False, "exit code 1"),
        ("sleep", False, "no answer within 0 s"),
        ("no-such-check", False, "no-such-check: cannot be run: No such file or directory"),
    ]
    assert checks[-1].blames == "job"


@pytest.mark.parametrize("checks", ["nvidia-smi", [[]], [["a", 1]], ["a b"]])
def test_own_checks_that_are_no_lists_of_arguments_are_refused(checks) -> None:
    with pytest.raises(RunDirError, match=r"health\.checks"):
        launch(checks=checks).health.commands()


def test_the_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = (
        '{"launch": {"nodes": 1, "ranks_per_node": 1, "device": "cpu", "threads_per_rank": 1, "grace_seconds": 1,'
        ' "phases": [], "health": {"checks": [["false"]]}}}'
    )
    (tmp_path / "plan.json").write_text(plan)
    assert health.main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "ok      gpus         none needed"
    assert printed[-1] == "FAILED  false        exit code 1"
    assert health.main([str(tmp_path / "gone")]) == 2
    assert health.main([]) == 2
