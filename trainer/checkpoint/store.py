"""The life of checkpoints in a run: reserve, write, vote, publish by rename, prune; find, verify, step back.

Every action of one rank ends in a vote, so that one rank's failure cannot hang the others. A failed save leaves the
published checkpoints as they are, and training goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.manifest import (
    DamagedCheckpointError,
    Manifest,
    StoredRange,
    check_sizes,
    published,
    read_manifest,
    verified,
)
from trainer.checkpoint.read import RangeReader
from trainer.checkpoint.writer import BackgroundWriter, HostCopy, combined, digest
from trainer.collectives import Ranks
from trainer.engines.base import Engine, Range
from trainer.files import fsync_folder

STATE_KEY = "random/"


@dataclass(frozen=True)
class SaveResult:
    """What became of a save.

    Attributes:
        step: the step that was saved.
        folder: the published checkpoint, or None when the save failed.
        problems: why it failed, one line per rank.
        stall_seconds: how long training waited.
    """

    step: int
    folder: Path | None
    problems: list[str]
    stall_seconds: float


@dataclass(frozen=True)
class PendingSave:
    """A save whose files are being written in the background."""

    manifest: Manifest
    staging: Path
    final: Path
    writer: BackgroundWriter | None
    problems: list[str]
    seconds: float

    @property
    def written(self) -> bool:
        """This rank's file is written, or has failed."""
        return self.writer is None or self.writer.done


class CheckpointStore:
    """The checkpoints of one run, as seen by all its ranks together."""

    def __init__(self, folder: Path, ranks: Ranks, keep: int, report: Callable[[str], None]) -> None:
        self._folder, self._ranks, self._keep, self._report = folder, ranks, keep, report
        self._host = HostCopy()

    def start(self, engine: Engine, manifest: Manifest) -> PendingSave:
        """Copy the engine's state to the host and begin to write it; training may go on when this returns.

        All ranks call this at the same step, and `finish` at the same later one.

        Args:
            manifest: everything but receipt, files, shapes and ranges, which are filled in by `finish`.
        """
        started = time.monotonic()
        final = self._folder / f"step-{manifest.step:08d}"
        staging = self._folder / f".staging-{final.name}-{manifest.attempt:03d}"
        _, problems = self._ranks.agree("checkpoint folder", lambda: self._reserve(staging, final))
        file = staging / f"rank-{self._ranks.rank:05d}.safetensors"
        writer = None if problems else BackgroundWriter(file, self._host.copy(self._owned(engine)), _random_state())
        return PendingSave(manifest, staging, final, writer, problems, time.monotonic() - started)

    def finish(self, pending: PendingSave) -> SaveResult:
        """Wait for the writers of all ranks, then publish and prune. A failure anywhere fails the save everywhere."""
        started = time.monotonic()
        problems = pending.problems
        record: dict[str, Any] | None = None
        if pending.writer is not None:
            record, problems = self._ranks.agree("checkpoint", pending.writer.result)
        records = self._ranks.gather(record)
        if not problems:
            pending.manifest.receipt |= {"digest": combined([r["digest"] for r in records])}
            _, problems = self._ranks.agree("publish", lambda: self._publish(pending, records))
        if problems:
            self._ranks.agree("clean up", lambda: self._discard(pending.staging))
        else:
            self._ranks.agree("prune", self._prune)
        stall = pending.seconds + time.monotonic() - started
        return SaveResult(pending.manifest.step, None if problems else pending.final, problems, stall)

    def _owned(self, engine: Engine) -> list[Range]:
        """What this rank writes: its ranges, or its share of each when every rank holds everything."""
        ranges = engine.ranges()
        if engine.replicated:
            ranges = [_share(r, self._ranks.rank, self._ranks.size) for r in ranges]
        return [r for r in ranges if r.view.numel()]

    def _reserve(self, staging: Path, final: Path) -> None:
        if not self._ranks.is_first:
            return
        if final.exists():
            raise FileExistsError(f"{final} is published already and never written into again")
        self._folder.mkdir(exist_ok=True)
        for stale in self._folder.glob(".staging-*"):
            shutil.rmtree(stale)
        staging.mkdir()

    def _publish(self, pending: PendingSave, records: list[dict[str, Any]]) -> None:
        if not self._ranks.is_first:
            return
        manifest, staging = pending.manifest, pending.staging
        for record in records:
            manifest.files[record["file"]] = record["facts"]
            manifest.shapes |= record["shapes"]
            manifest.ranges += [StoredRange(*entry) for entry in record["ranges"]]
        with (staging / "manifest.json").open("w", encoding="utf-8") as stream:
            stream.write(manifest.to_json())
            stream.flush()
            os.fsync(stream.fileno())
        check_sizes(staging, manifest)
        fsync_folder(staging)
        staging.rename(pending.final)
        fsync_folder(self._folder)

    def _discard(self, staging: Path) -> None:
        if self._ranks.is_first and staging.exists():
            shutil.rmtree(staging)

    def _prune(self) -> None:
        if not self._ranks.is_first:
            return
        for _, old in published(self._folder)[self._keep :]:
            trash = old.with_name(f".trash-{old.name}")
            old.rename(trash)  # a half-deleted checkpoint must not look like one
            shutil.rmtree(trash)

    def newest_verified(self) -> tuple[Path, Manifest] | None:
        """The newest checkpoint whose files are what its manifest says; damaged newer ones are set aside.

        All ranks call this; each hashes a share of the files.
        """
        for folder in self._ranks.first_decides("checkpoints", self._list):
            path = self._folder / folder
            problem = self._problem_with(path)
            if problem is None:
                return path, read_manifest(path)
            self._report(f"checkpoint {path.name} is damaged and set aside: {problem}")
            self._ranks.agree("set aside", lambda p=path: self._set_aside(p))  # type: ignore[misc]
        return None

    def _list(self) -> list[str]:
        return [folder.name for _, folder in published(self._folder)]

    def _problem_with(self, folder: Path) -> str | None:
        problem = ""
        try:
            verified(folder, self._ranks.rank, self._ranks.size)
        except DamagedCheckpointError as damage:
            problem = str(damage)
        return next((p for p in self._ranks.gather(problem) if p), None)

    def _set_aside(self, folder: Path) -> None:
        if self._ranks.is_first:
            folder.rename(folder.with_name(f".damaged-{folder.name}-{int(time.time())}"))

    def load(self, engine: Engine, folder: Path, manifest: Manifest) -> None:
        """Put a verified checkpoint into the engine and check the receipt.

        Raises:
            DamagedCheckpointError: the state after loading is not the state that was saved.
        """
        RangeReader(folder, manifest).fill(engine.ranges())
        engine.after_load(manifest.step)
        found = combined(self._ranks.gather(digest(self._owned(engine))))
        if found != manifest.receipt["digest"]:
            raise DamagedCheckpointError(f"{folder.name}: the loaded state differs from the receipt")
        if manifest.world_size == self._ranks.size:
            _restore_random_state(folder / f"rank-{self._ranks.rank:05d}.safetensors")


def _share(whole: Range, rank: int, size: int) -> Range:
    count = whole.view.numel()
    first, last = count * rank // size, count * (rank + 1) // size
    return Range(whole.tensor, whole.kind, whole.start + first, whole.shape, whole.view[first:last])


def _random_state() -> dict[str, torch.Tensor]:
    state = {f"{STATE_KEY}cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"{STATE_KEY}cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as stored:
        names = set(stored.keys())
        torch.set_rng_state(stored.get_tensor(f"{STATE_KEY}cpu"))
        if torch.cuda.is_available() and f"{STATE_KEY}cuda" in names:
            torch.cuda.set_rng_state(stored.get_tensor(f"{STATE_KEY}cuda"))
