"""The life of checkpoints in a run: reserve, write, vote, publish by rename, prune; find, verify, load, step back.

Every action of one rank ends in a vote, so that one rank's failure cannot hang the others. A failed save leaves the
published checkpoints as they are, and training goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rundir.files import sync_folder
from trainer.checkpoint.fault_points import fault_point
from trainer.checkpoint.format.manifest import (
    DamagedCheckpointError,
    Manifest,
    StoredRange,
    UnreadableStorageError,
    check_sizes,
    published,
    read_manifest,
    verified,
)
from trainer.checkpoint.format.range_reader import RangeReader
from trainer.checkpoint.format.rank_writer import BackgroundWriter, HostCopy, combined, digest
from trainer.checkpoint.retention import DAMAGED, PERMANENT_MARK, outdated_damaged, remove, sweep, to_prune
from trainer.engines.base import Engine, Range
from trainer.errors import UserError
from trainer.model.supervised import trainable_parameters
from trainer.runtime.collectives import Ranks

STATE_KEY = "random/"


@dataclass(frozen=True)
class SaveResult:
    """What became of a save.

    Attributes:
        step: the step that was saved.
        folder: the published checkpoint, or None when the save failed.
        problems: why it failed, one line per rank.
        stall_seconds: how long training waited.
        write_seconds: from the beginning until it was published.
        written_bytes: of all ranks.
    """

    step: int
    folder: Path | None
    problems: list[str]
    stall_seconds: float
    write_seconds: float = 0.0
    written_bytes: int = 0


@dataclass(frozen=True)
class PendingSave:
    """A save whose files are being written in the background."""

    manifest: Manifest
    staging: Path
    final: Path
    writer: BackgroundWriter | None
    problems: list[str]
    seconds: float
    begun: float

    @property
    def written(self) -> bool:
        """This rank's file is written, or has failed."""
        return self.writer is None or self.writer.done

    def wait(self, seconds: float) -> bool:
        """Wait for this rank's file, at most so long; whether it is written or has failed."""
        return self.writer is None or self.writer.wait(seconds)


class CheckpointStore:
    """The checkpoints of one run, as seen by all its ranks together.

    Args:
        folder: `checkpoints/` of the run directory.
        ranks: all ranks; they call every method together.
        keep: newest checkpoints that stay, beside permanent ones.
        report: prints a line for people.
    """

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
        manifest.saved = time.time()
        final = self._folder / f"step-{manifest.step:08d}"
        staging = self._folder / f".staging-{final.name}-{manifest.attempt:03d}"
        _, problems = self._ranks.agree("checkpoint folder", lambda: self._reserve(staging, final))
        file = staging / f"rank-{self._ranks.rank:05d}.safetensors"
        writer = None
        if not problems:
            copies = self._host.copy(self._owned(engine))
            fault_point("copied")
            writer = BackgroundWriter(file, copies, _random_state())
        return PendingSave(manifest, staging, final, writer, problems, time.monotonic() - started, started)

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
        return SaveResult(
            step=pending.manifest.step,
            folder=None if problems else pending.final,
            problems=problems,
            stall_seconds=pending.seconds + time.monotonic() - started,
            write_seconds=time.monotonic() - pending.begun,
            written_bytes=sum(facts["bytes"] for facts in pending.manifest.files.values()),
        )

    def _owned(self, engine: Engine) -> list[Range]:
        """What this rank writes: its ranges, or its share of each when every rank holds everything."""
        ranges = engine.ranges()
        if engine.replicated:
            ranges = [_share(r, self._ranks.rank, self._ranks.size) for r in ranges]
        return [r for r in ranges if r.view.numel()]

    def _reserve(self, staging: Path, final: Path) -> None:
        if not self._ranks.is_first:
            return
        fault_point("reserve")
        if final.exists():
            raise FileExistsError(f"{final} is published already and never written into again")
        self._folder.mkdir(exist_ok=True)
        for stale in [*self._folder.glob(".staging-*"), *self._folder.glob(".trash-*")]:
            sweep(stale)
        staging.mkdir()
        fault_point("reserved")

    def _publish(self, pending: PendingSave, records: list[dict[str, Any]]) -> None:
        if not self._ranks.is_first:
            return
        manifest, staging = pending.manifest, pending.staging
        for record in records:
            manifest.files[record["file"]] = record["facts"]
            manifest.shapes |= record["shapes"]
            manifest.ranges += [StoredRange(*entry) for entry in record["ranges"]]
        _write_manifest(staging, manifest)
        check_sizes(staging, manifest)
        sync_folder(staging)
        fault_point("staging synced")
        staging.rename(pending.final)
        fault_point("renamed")
        sync_folder(self._folder)
        fault_point("published")

    def _discard(self, staging: Path) -> None:
        if self._ranks.is_first:
            sweep(staging)

    def _prune(self) -> None:
        if not self._ranks.is_first:
            return
        fault_point("prune")
        for old in to_prune(self._folder, self._keep):
            remove(old)
        for old in outdated_damaged(self._folder):
            self._report(f"removed {old.name}: a later one has been set aside")
            sweep(old)
        fault_point("pruned")

    def restore(self, engine: Engine, check: Callable[[Path, Manifest], None]) -> tuple[Path, Manifest] | None:
        """Put the newest checkpoint that is whole into the engine; damaged ones are named and set aside.

        Args:
            engine: freshly built.
            check: raises if the run may not go on from that checkpoint; called before anything is loaded.

        Returns:
            The checkpoint, or None when there is none.

        Raises:
            UserError: `check` refused, or the checkpoint is of another model.
            UnreadableStorageError: the storage refuses to read; nothing is set aside for that.
            DamagedCheckpointError: every checkpoint proved damaged, and the last one only while it was loaded. The
                next attempt starts afresh.
        """
        touched = ""
        for name in self._ranks.first_decides("checkpoints", self._list):
            folder = self._folder / name
            problem = self._problem_with(folder)
            if problem is None:
                manifest = read_manifest(folder)
                check(folder, manifest)
                problem = touched = self.load(engine, folder, manifest)
                if not problem:
                    return folder, manifest
            self._report(f"checkpoint {name} is damaged and set aside: {problem}")
            self._ranks.agree("set aside", lambda f=folder: self._set_aside(f))  # type: ignore[misc]
        if touched:
            raise DamagedCheckpointError(f"no checkpoint is left to load: {touched}")
        return None

    def _list(self) -> list[str]:
        return [folder.name for _, folder in published(self._folder)]

    def _problem_with(self, folder: Path) -> str | None:
        """What any rank found wrong with a checkpoint's files; each hashes a share of them."""
        found = {"damage": "", "storage": ""}
        try:
            verified(folder, self._ranks.rank, self._ranks.size)
        except DamagedCheckpointError as damage:
            found["damage"] = str(damage)
        except (UnreadableStorageError, OSError) as refusal:
            found["storage"] = str(refusal)
        everyone = self._ranks.gather(found)
        if refused := next((f["storage"] for f in everyone if f["storage"]), None):
            raise UnreadableStorageError(f"{refused}; the checkpoint may be whole and stays where it is")
        return next((f["damage"] for f in everyone if f["damage"]), None)

    def _set_aside(self, folder: Path) -> None:
        if self._ranks.is_first:
            folder.rename(folder.with_name(f"{DAMAGED}{folder.name}-{time.time_ns()}"))

    def load(self, engine: Engine, folder: Path, manifest: Manifest) -> str:
        """Fill the engine and check the receipt; "" when the state is the one that was saved, else what is not."""
        problem = ""
        reader, left_out = RangeReader(folder, manifest), _no_longer_trained(engine, folder, manifest)
        stored: list[dict[str, int]] = []
        try:
            reader.fill(engine.ranges())
            if self._ranks.is_first:  # the receipt is of all that was trained
                stored = [digest(reader.stored(name)) for name in left_out]
        except DamagedCheckpointError as damage:
            problem = str(damage)
        if told := [p for p in self._ranks.gather(problem) if p]:
            return str(told[0])
        engine.after_load(manifest.step)
        digests = self._ranks.gather([digest(self._owned(engine)), *stored])
        if combined([part for parts in digests for part in parts]) != manifest.receipt["digest"]:
            return "the loaded state differs from the receipt"
        if left_out:
            self._report(f"{len(left_out)} tensors of {folder.name} have no part in the loss and are trained no longer")
        if manifest.world_size == self._ranks.size:
            _restore_random_state(folder / f"rank-{self._ranks.rank:05d}.safetensors")
        return ""


def _write_manifest(staging: Path, manifest: Manifest) -> None:
    if manifest.permanent:
        (staging / PERMANENT_MARK).touch()
    with (staging / "manifest.json").open("w", encoding="utf-8") as stream:
        fault_point("manifest open")
        stream.write(manifest.to_json())
        stream.flush()
        os.fsync(stream.fileno())
    fault_point("manifest written")


def _no_longer_trained(engine: Engine, folder: Path, manifest: Manifest) -> list[str]:
    """Tensors of a checkpoint that the model has and keeps as they are: older versions trained what has no effect.

    Raises:
        UserError: the checkpoint holds tensors that the model does not have.
    """
    trained = {name for name, _ in trainable_parameters(engine.model)}
    left_out = sorted(manifest.shapes.keys() - trained)
    known = {name.removeprefix("causal_lm.") for name, _ in engine.model.named_parameters()}
    if strange := [name for name in left_out if name not in known]:
        raise UserError(
            f"the checkpoint holds {len(strange)} tensors that the model does not train: {', '.join(strange[:3])}",
            where=str(folder),
            remedy="put the old model and method back, or submit a new run",
        )
    return left_out


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
