"""Damage between two attempts, as storage, people and half-finished deletions do it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from benchmarks.chaos.faults import Fault
from launcher.drill.actions import flip_bit, truncate
from trainer.checkpoint.format.manifest import published


def damage(fault: Fault, run_dir: Path) -> bool:
    """Apply an at-rest fault. False when there is nothing to apply it to."""
    folders = published(run_dir / "checkpoints")
    if fault.kind == "damaged progress":
        (run_dir / "progress.json").write_text('{"state": "trai')
        return True
    if not folders:
        return False
    KINDS[fault.kind](folders[0][1], fault)
    return True


def _file(newest: Path, fault: Fault) -> Path:
    files = sorted(file for file in newest.iterdir() if file.stat().st_size)
    return files[int(fault.place * 997) % len(files)]


def bit_flip(newest: Path, fault: Fault) -> None:
    flip_bit(_file(newest, fault), fault.place, (fault.rank + fault.step) % 8)


def truncation(newest: Path, fault: Fault) -> None:
    truncate(_file(newest, fault), fault.place)


def missing_file(newest: Path, fault: Fault) -> None:
    _file(newest, fault).unlink()


def extra_shard(newest: Path, fault: Fault) -> None:
    shutil.copy(newest / "rank-00000.safetensors", newest / "rank-00077.safetensors")


def half_a_manifest(newest: Path, fault: Fault) -> None:
    manifest = newest / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])


def stale_folders(newest: Path, fault: Fault) -> None:
    """What killed saves and deletions leave behind, newer than everything else."""
    for name in (".staging-step-00000999-000", ".trash-step-00000998", ".staging-step-00000001-001"):
        shutil.copytree(newest, newest.parent / name, dirs_exist_ok=True)
    (newest.parent / ".trash-step-00000998" / "manifest.json").unlink(missing_ok=True)


def scrambled_times(newest: Path, fault: Fault) -> None:
    """The oldest looks newest: a restored backup, or a clock that jumped."""
    for age, folder in enumerate([folder for _, folder in reversed(published(newest.parent))]):
        os.utime(folder, (2e9 - 1e8 * age, 2e9 - 1e8 * age))


def foreign_entries(newest: Path, fault: Fault) -> None:
    """Names that only resemble checkpoints, of higher steps than any."""
    for name in ("step-00000997.bak", "old-step-00000996", "step-99", "step-0000000x"):
        (newest.parent / name).mkdir(exist_ok=True)
        shutil.copy(newest / "manifest.json", newest.parent / name)
    (newest.parent / "step-00000995").write_text("a file")


KINDS = {
    "bit flip": bit_flip,
    "truncation": truncation,
    "missing file": missing_file,
    "extra shard": extra_shard,
    "half a manifest": half_a_manifest,
    "stale folders": stale_folders,
    "scrambled times": scrambled_times,
    "foreign entries": foreign_entries,
}
