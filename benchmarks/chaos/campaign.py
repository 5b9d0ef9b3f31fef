"""A campaign: runs with fault after fault until they finish; what must hold is checked after every attempt."""

from __future__ import annotations

import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chaos.at_rest import damage
from benchmarks.chaos.faults import DAMAGE, STORAGE, Fault, draw
from benchmarks.chaos.injector import BALLAST, INJECTED, attempt
from benchmarks.chaos.job import METHODS, SAVE_EVERY, STEPS, Layout, RunFactory
from tests.support.ranks import RankGroup
from trainer.checkpoint.inventory import inventory

FROZEN_SECONDS = 2.0
"""A heartbeat that stands still for so long, with a frozen rank, is the hang that was injected."""
PATIENCE_SECONDS = 45.0
"""No attempt may take longer: that is a hang nobody asked for."""
LEAVE_SECONDS = 1.0
ORDER_TOLERANCE = 2e-5
MOVED_SHARE = 0.2

Script = tuple[list[Fault], Fault | None]
"""The faults of one attempt, and the one of what it leaves behind."""


@dataclass
class Reference:
    """Where a run that was never disturbed ends."""

    digest: dict[str, str]
    losses: dict[int, float]
    tokens: dict[int, int]


@dataclass
class Tally:
    """What a campaign found."""

    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    runs: int = 0
    constant_runs: int = 0
    bit_equal_runs: int = 0
    moved_runs: int = 0
    order_exact_runs: int = 0
    lost_checkpoints: int = 0
    hangs: int = 0
    detected_hangs: int = 0
    steps_lost: list[int] = field(default_factory=list)
    steps_lost_to_damage: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "faults": sum(self.faults.values()),
            "lost_checkpoints": self.lost_checkpoints,
            "hangs": self.hangs,
            "bit_equal": self.bit_equal_runs == self.constant_runs,
            "order_exact": self.order_exact_runs == self.moved_runs,
            "steps_lost_max": max(self.steps_lost, default=0),
            "steps_lost_mean": round(sum(self.steps_lost) / max(1, len(self.steps_lost)), 2),
            "steps_lost_max_after_damage_or_full_disk": max(self.steps_lost_to_damage, default=0),
            "runs": self.runs,
            "runs_on_constant_ranks": self.constant_runs,
            "runs_moved": self.moved_runs,
            "attempts": self.attempts,
            "detected_hangs": self.detected_hangs,
            "by_kind": dict(sorted(self.faults.items())),
            "by_point": dict(sorted(self.points.items())),
            "by_engine": dict(sorted(self.engines.items())),
            "problems": self.problems,
        }

    @property
    def clean(self) -> bool:
        found = self.as_json()
        return (
            found["bit_equal"] and found["order_exact"] and not (self.lost_checkpoints or self.hangs or self.problems)
        )


class Campaign:
    """Injects faults into runs until there were enough.

    Args:
        factory: makes the runs.
        engines: taken in turns.
        faults: how many faults in all.
        seed: decides every fault.
        say: told of every run.
    """

    def __init__(
        self, factory: RunFactory, engines: list[str], faults: int, seed: int, say: Callable[[str], None]
    ) -> None:
        self.factory, self.engines, self.faults, self.say = factory, engines, faults, say
        self.rng = random.Random(seed)
        self.tally = Tally()
        self._references: dict[Layout, Reference] = {}

    def run(self) -> Tally:
        """Run it."""
        while sum(self.tally.faults.values()) < self.faults:
            self._one_run(self.tally.runs)
        return self.tally

    def _one_run(self, number: int) -> None:
        moves = self.rng.random() < MOVED_SHARE
        methods = [method for method in METHODS if not (moves and METHODS[method].get("lora_dropout"))]
        layout = Layout(self.engines[number % len(self.engines)], 2, self.rng.choice(methods))
        self.inject(layout, self._drawn(), moves)

    def _drawn(self) -> Iterator[Script]:
        """Faults for one run, until it had its share, the campaign has enough, or it takes too many attempts."""
        before = sum(self.tally.faults.values())
        share = math.ceil(self.faults / len(self.engines))  # a small campaign meets every engine, too
        for _ in range(3 * STEPS):
            injected = sum(self.tally.faults.values())
            if injected >= self.faults or injected - before >= share:
                return
            yield draw(self.rng)

    def inject(self, layout: Layout, script: Iterator[Script], moves: bool = False) -> FaultyRun:
        """One run under the faults of a script, and then to its end.

        Args:
            layout: of its first attempt.
            script: for each attempt its faults, and the one of what it leaves behind.
            moves: some attempts have another layout.
        """
        number = self.tally.runs
        reference = self._reference(layout)
        with self.factory.run(f"run-{number:04d}", layout) as run_dir:
            faulty = FaultyRun(self, run_dir, layout, moves)
            faulty.run(script)
            self.tally.runs += 1
            self._compare(faulty, reference)
            self.say(f"run {number} {layout.engine} {layout.method}{' moved' if faulty.moved else ''}: {faulty.story}")
            return faulty

    def _reference(self, layout: Layout) -> Reference:
        if layout not in self._references:
            with self.factory.run(f"reference-{layout.engine}-{layout.method}", layout) as run_dir:
                with RankGroup(attempt, layout.ranks, str(run_dir), 0, [], log=run_dir / "log") as group:
                    group.wait(PATIENCE_SECONDS)
                    assert [group.result(rank) for rank in range(layout.ranks)] == ["finished"] * layout.ranks
                self._references[layout] = Reference(end_digest(run_dir), *curves(run_dir))
        return self._references[layout]

    def _compare(self, faulty: FaultyRun, reference: Reference) -> None:
        tally, run_dir = self.tally, faulty.run_dir
        losses, tokens = curves(run_dir)
        if not faulty.moved:
            tally.constant_runs += 1
            same = end_digest(run_dir) == reference.digest and losses == reference.losses
            tally.bit_equal_runs += same
        else:
            tally.moved_runs += 1
            near = [abs(losses.get(s, 9e9) - loss) <= ORDER_TOLERANCE * loss for s, loss in reference.losses.items()]
            same = tokens == reference.tokens and all(near)
            tally.order_exact_runs += same
        if not same:
            tally.problems.append(f"{run_dir.name} ends elsewhere: {faulty.story}")


class FaultyRun:
    """One run of a campaign, from its first attempt until it is finished.

    Attributes:
        layout: of the next attempt.
        moved: whether attempts had different layouts.
        number: of the next attempt.
        resumed_from: step of every attempt so far.
        story: its faults, in words.
    """

    def __init__(self, campaign: Campaign, run_dir: Path, layout: Layout, moves: bool) -> None:
        self.campaign, self.run_dir, self.layout, self.moves = campaign, run_dir, layout, moves
        self.tally, self.rng = campaign.tally, campaign.rng
        self.moved = False
        self.resumed_from: list[int] = []
        self.number = 0
        self.story = ""

    def run(self, script: Iterator[Script]) -> None:
        """Attempts with the faults of the script, then one without."""
        while not self._attempt(*next(script, ([], None))):
            if self.number > 4 * STEPS:
                raise RuntimeError(f"{self.run_dir.name} does not finish: {self.story}")
            self._maybe_move()

    def _maybe_move(self) -> None:
        if self.moves and self.rng.random() < 0.5:
            engine, ranks = self.rng.choice(self.campaign.engines), self.rng.choice([1, 2, 4])
            self.moved = self.moved or (engine, ranks) != (self.layout.engine, self.layout.ranks)
            self.layout = self.layout.moved(engine, ranks)
            self.campaign.factory.write_plan(self.run_dir, self.layout)

    def _attempt(self, faults: list[Fault], damage_after: Fault | None) -> bool:
        """One attempt with its faults, and the one of what it leaves behind; whether the run is finished."""
        before = self._resumable()
        (self.run_dir / "stop").unlink(missing_ok=True)
        finished = self._supervise(faults) == "finished"
        (self.run_dir / "checkpoints" / BALLAST).unlink(missing_ok=True)
        kinds = self._count_injected()
        progress = self._progress()
        self._check_start(before, progress)
        self.resumed_from.append(progress.get("resumed_from") or 0)
        after = self._resumable()
        self._check_end(before, after, progress, kinds, finished)
        if damage_after and not finished and damage(damage_after, self.run_dir):
            self._count(damage_after.kind, "")
            self._check_damage(damage_after, after)
        self.number += 1
        self.tally.attempts += 1
        return finished

    def _count_injected(self) -> set[str]:
        """The kinds of fault that this attempt had, by what its ranks noted."""
        file = self.run_dir / INJECTED
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        injected = {(line["kind"], line["point"]) for line in lines if line["attempt"] == self.number}
        for kind, point in sorted(injected):
            self._count(kind, point)
        return {kind for kind, _ in injected}

    def _count(self, kind: str, point: str) -> None:
        self.tally.faults[kind] += 1
        self.tally.engines[self.layout.engine] += 1
        self.story += f" {kind}"
        if "point" in kind:
            self.tally.points[f"{kind}: {point}"] += 1
            self.story += f" `{point}`"
        self.story += ";"

    def _supervise(self, faults: list[Fault]) -> str:
        """Start the ranks and see them to their end, as torchrun and the node agent would."""
        raw = [fault.as_json() for fault in faults]
        freezes = any(fault.kind == "freeze one" for fault in faults)
        log = self.run_dir / f"attempt-{self.number:03d}.log"
        started = time.monotonic()
        beat, beaten = None, started
        with RankGroup(attempt, self.layout.ranks, str(self.run_dir), self.number, raw, log=log) as group:
            while any(process.exitcode is None for process in group.processes):
                group.wait(0.01)
                now, heartbeat = time.monotonic(), self._progress().get("heartbeat")
                beat, beaten = (heartbeat, now) if heartbeat != beat else (beat, beaten)
                if any(process.exitcode for process in group.processes):
                    group.wait(LEAVE_SECONDS)
                    break
                if freezes and beat and now - beaten > FROZEN_SECONDS:
                    self.tally.detected_hangs += 1
                    break
                if now - started > PATIENCE_SECONDS:
                    self.tally.hangs += 1
                    self._problem(f"hung, {faults}\n{log.read_text()[-2000:]}")
                    break
            group.end()
            codes = [process.exitcode for process in group.processes]
            return group.result(0) if not any(codes) else "failed"

    def _resumable(self) -> int:
        """Step of the newest whole checkpoint on disk, 0 when there is none."""
        found = inventory(self.run_dir / "checkpoints", verify=True)
        whole = [entry["step"] for entry in found["checkpoints"] if entry["state"] == "published" and entry["verified"]]
        return max(whole, default=0)

    def _check_start(self, before: int, progress: dict[str, Any]) -> None:
        """The attempt went on from the newest whole checkpoint, if it came so far as to say."""
        if progress.get("attempt") != self.number or progress.get("state") in ("starting", "loading"):
            return
        if (progress.get("resumed_from") or 0) != before:
            self.tally.lost_checkpoints += 1
            self._problem(f"attempt {self.number} resumed from {progress.get('resumed_from')}, {before} was there")

    def _check_end(self, before: int, after: int, progress: dict[str, Any], kinds: set[str], finished: bool) -> None:
        if after < before:
            self.tally.lost_checkpoints += 1
            self._problem(f"attempt {self.number} left {after}, {before} was there before; {kinds}")
        at_the_end = progress.get("step") == STEPS  # an end that cannot be saved is an error, and says so
        if kinds and kinds <= STORAGE.keys() and not finished and not at_the_end:
            self._problem(f"attempt {self.number} ended, though only storage was refused: {kinds}")
        if finished or progress.get("attempt") != self.number:
            return
        lost = max(0, int(progress.get("step") or 0) - after)
        storage = bool(kinds & STORAGE.keys())
        (self.tally.steps_lost_to_damage if storage else self.tally.steps_lost).append(lost)
        if not storage and lost > 2 * SAVE_EVERY:
            self._problem(f"attempt {self.number} lost {lost} steps: {kinds}")

    def _check_damage(self, fault: Fault, whole: int) -> None:
        """Damage is seen, and only the damaged checkpoint is given up."""
        now = self._resumable()
        if fault.kind in DAMAGE and whole:
            self.tally.steps_lost_to_damage.append(whole - now)
            if now >= whole:
                self._problem(f"{fault} was not noticed")
        elif now != whole:
            self.tally.lost_checkpoints += 1
            self._problem(f"{fault} hid step {whole}: now {now}")

    def _problem(self, words: str) -> None:
        self.tally.problems.append(f"{self.run_dir.name} {self.layout}: {words}")
        self.campaign.say(self.tally.problems[-1])

    def _progress(self) -> dict[str, Any]:
        try:
            progress: dict[str, Any] = json.loads((self.run_dir / "progress.json").read_text())
            return progress
        except (OSError, ValueError):
            return {}


def end_digest(run_dir: Path) -> dict[str, str]:
    """Digest of the last step's parameters and moments; empty when there is no checkpoint of it."""
    manifest = run_dir / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json"
    return json.loads(manifest.read_text())["manifest"]["receipt"]["digest"] if manifest.exists() else {}


def curves(run_dir: Path) -> tuple[dict[int, float], dict[int, int]]:
    """Loss and tokens of every step; what was trained last counts."""
    losses, tokens = {}, {}
    for line in (run_dir / "logs" / "metrics.jsonl").read_text().splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        if "loss" in found:
            losses[found["step"]], tokens[found["step"]] = found["loss"], found["tokens"]
    return losses, tokens
