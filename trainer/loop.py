"""The training loop: steps over the global order, on whatever engine, from wherever the last checkpoint was."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.store import CheckpointStore, PendingSave
from trainer.collectives import Ranks
from trainer.config import TrainerConfig
from trainer.data.batch import Batch, Reduction, collate, prefetched
from trainer.data.order import GlobalOrder, deal, work_of
from trainer.data.store import TokenStore, read_fingerprint
from trainer.engines import build_engine
from trainer.errors import UserError
from trainer.evaluate import held_out_loss
from trainer.meters import Meters, StepFacts
from trainer.model.build import attention_work, build_model
from trainer.progress import Progress, StopRequest
from trainer.schedule import LearningRate


@dataclass
class StepWork:
    """One rank's share of a step.

    Attributes:
        batches: its micro-batches, in order.
        total: the loss's denominator over the whole step, on all ranks the same.
        tokens, supervised_tokens: over all ranks.
    """

    batches: list[Batch]
    total: float
    tokens: int
    supervised_tokens: int


@dataclass
class Counters:
    """Running totals of the run, over all attempts."""

    tokens: int = 0
    supervised_tokens: int = 0
    training_seconds: float = 0.0


@dataclass
class Clock:
    """When the last save was, for saves by the minute."""

    every_minutes: float | None
    last: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        return self.every_minutes is not None and time.monotonic() - self.last >= 60 * self.every_minutes


class StepSource:
    """Makes each step's work for one rank."""

    def __init__(self, order: GlobalOrder, config: TrainerConfig, rank: int, pin: bool) -> None:
        self._order, self._config, self._rank, self._pin = order, config, rank, pin
        self._reduction = Reduction(order.store, config.loss.reduction)
        self._linear = attention_work(config)

    def step(self, number: int) -> StepWork:
        """The work of global step `number`, from 0."""
        rows, execution = self._order.store.rows, self._config.execution
        packs = self._order.packs_of(number)
        work = work_of(packs, rows["length"], self._linear)
        dealt = deal(work, execution.world_size, execution.accumulation, execution.micro_batch)[self._rank]
        everyone = np.concatenate(packs)
        total = self._reduction.total(everyone)
        if total <= 0:
            raise UserError(f"all rows of step {number + 1} have weight 0", remedy="see `weight` in the data")
        batches = [self._batch([int(n) for at in slot if at >= 0 for n in packs[at]]) for slot in dealt]
        lengths, targets = rows["length"][everyone], rows["targets"][everyone]
        return StepWork(batches, total, int(lengths.sum()), int(targets.sum()))

    def _batch(self, numbers: list[int]) -> Batch:
        batch = collate(self._order.store, numbers, self._reduction)
        return batch.pin() if self._pin else batch


class TrainingRun:
    """One attempt of a run, on one rank.

    Args:
        run_dir: the run directory, prepared.
        config: the plan's trainer part.
        attempt: number of this attempt.
        report: prints a line for people; only the first rank's lines are shown.
    """

    def __init__(self, run_dir: Path, config: TrainerConfig, attempt: int, report: Callable[[str], None]) -> None:
        self.run_dir, self.config, self.attempt = run_dir, config, attempt
        self.ranks = Ranks()
        self.report = report if self.ranks.is_first else lambda _: None
        self.stop = StopRequest(run_dir)
        self.progress = Progress(run_dir, attempt, writes=self.ranks.is_first)
        self.progress.update(state="starting")
        self._check_world()
        seed_everything(config.training.seed, config.training.full_determinism)
        self.fingerprint = read_fingerprint(run_dir / "data")["content"]
        self.order = GlobalOrder(TokenStore(run_dir / "data" / "train"), config)
        self.engine = build_engine(build_model(config), config)
        self.rate = LearningRate(config.training, self.order.max_steps)
        self.checkpoints = CheckpointStore(run_dir / "checkpoints", self.ranks, config.checkpoint.keep, self.report)
        self.counters = Counters()
        self.step = self._resume()
        self.meters = Meters(run_dir, config, self.ranks, attempt, self.step)
        self.clock = Clock(config.checkpoint.every_minutes)
        self._saved_step = self.step
        self._pending: PendingSave | None = None

    def train(self) -> str:
        """Train to the end, or until asked to stop. Returns "finished" or "stopped"."""
        self.progress.update(state="training", step=self.step, max_steps=self.order.max_steps)
        source = StepSource(self.order, self.config, self.ranks.rank, pin=self.engine.device.type == "cuda")
        work = prefetched(source.step, self.step, self.order.max_steps)
        try:
            for _ in range(self.step, self.order.max_steps):
                if self._one_step(work):
                    break
        finally:
            work.close()  # type: ignore[attr-defined]
        return self._leave()

    def _one_step(self, work: Any) -> bool:
        """One optimizer step and what is due after it. Returns whether to leave."""
        asked = self.ranks.any(
            bool(self.stop), self._first(self.clock.due), self._first(self.meters.due), self._still_writing()
        )
        started = time.monotonic()
        share = next(work)
        waited = time.monotonic() - started
        self._optimise(share, waited)
        self.counters.training_seconds += time.monotonic() - started
        stop, save, flush, writing = asked.wait()
        last = self.step == self.order.max_steps
        if self._pending is not None and not writing:
            self._finish_save()
        if flush or last or stop:
            self._flush()
        if self._every(self.config.evaluation.every_steps) and not last:
            self._evaluate()
        if stop or last or save or self._every(self.config.checkpoint.every_steps):
            self._start_save()
        return stop and not last

    def _still_writing(self) -> bool:
        return self._pending is not None and not self._pending.written

    def _optimise(self, share: StepWork, waited: float) -> None:
        engine, rate = self.engine, self.rate.at(self.step)
        loss = torch.zeros((), device=engine.device)
        for number, batch in enumerate(share.batches):
            loss += engine.micro_step(batch.to(engine.device), 1 / share.total, number == len(share.batches) - 1)
        norm = engine.optimizer_step(rate)
        self.step += 1
        self.counters.tokens += share.tokens
        self.counters.supervised_tokens += share.supervised_tokens
        capacity = self.config.execution.packs_per_step * self.config.data.max_length
        epochs = self.order.locate(self.step - 1)
        facts = StepFacts(
            step=self.step,
            epoch=epochs.epoch + (epochs.step + 1) / epochs.steps,
            learning_rate=rate,
            tokens=share.tokens,
            supervised_tokens=share.supervised_tokens,
            fill=share.tokens / capacity,
            data_wait_seconds=waited,
        )
        self.meters.add(facts, loss / share.total, norm)

    def _first(self, flag: bool) -> bool:
        """Clocks differ between ranks, so the first rank's decides."""
        return flag and self.ranks.is_first

    def _every(self, steps: int | None) -> bool:
        return steps is not None and self.step % steps == 0

    def _flush(self) -> None:
        line = self.meters.flush()
        if line is not None:
            self.progress.update(
                state="training",
                step=self.step,
                epoch=line["epoch"],
                loss=line["loss"],
                tokens=self.counters.tokens,
                supervised_tokens=self.counters.supervised_tokens,
                tokens_per_second=line["tokens_per_second"],
            )
            self.report(
                f"step {self.step}/{self.order.max_steps}  loss {line['loss']:.4f}  "
                f"grad_norm {line['grad_norm']:.3f}  lr {line['learning_rate']:.2e}  "
                f"{line['tokens_per_second']:,.0f} tokens/s"
            )

    def _evaluate(self) -> None:
        self._flush()
        self.progress.update(state="evaluating")
        result = held_out_loss(self.engine, self.run_dir, self.order, self.ranks)
        if result is not None:
            self.meters.write({"step": self.step, **result})
            self.report(f"step {self.step}  eval_loss {result['eval_loss']:.4f}")

    def _start_save(self) -> None:
        """Begin to save this step; the save before is finished first, so at most one is under way."""
        self._finish_save()
        if self._saved_step == self.step:
            return
        self._flush()  # a state with an unfinite loss is never saved
        self._pending = self.checkpoints.start(self.engine, self._manifest())
        self.clock.last = time.monotonic()

    def _finish_save(self) -> None:
        if self._pending is None:
            return
        result = self.checkpoints.finish(self._pending)
        self._pending = None
        if result.folder is None:
            self.report(f"checkpoint at step {result.step} FAILED, training goes on: {'; '.join(result.problems)}")
            self.progress.update(save_problem={"step": result.step, "problems": result.problems})
            return
        self._saved_step = result.step
        path = str(result.folder.relative_to(self.run_dir))
        self.progress.update(last_checkpoint={"step": result.step, "path": path}, save_problem=None)
        self.report(f"saved {path}; training waited {result.stall_seconds:.2f} s")

    def _manifest(self) -> Manifest:
        return Manifest(
            step=self.step,
            attempt=self.attempt,
            engine=self.config.execution.engine,
            world_size=self.ranks.size,
            counters=dict(vars(self.counters)),
            data={"fingerprint": self.fingerprint, "step": self.step},
            trainer=self.config.model_dump(mode="json"),
            receipt={},
            shapes={},
        )

    def _leave(self) -> str:
        finished = self.step >= self.order.max_steps
        if finished:
            self._evaluate()
        self.progress.update(state="saving")
        self._finish_save()
        state = "finished" if finished else "stopped"
        if self._saved_step != self.step:
            raise UserError(
                f"the state of step {self.step} could not be saved",
                where=str(self.run_dir / "checkpoints"),
                remedy="free space or mend the storage, then `tuneyard resume`",
            )
        self.progress.update(state=state, step=self.step)
        self.report(f"{state} at step {self.step}" + ("" if finished else f": {self.stop.reason()}"))
        self.meters.close()
        self.ranks.barrier()
        return state

    def _resume(self) -> int:
        found = self.checkpoints.newest_verified()
        if found is None:
            seed_everything(self.config.training.seed + 1 + self.ranks.rank, self.config.training.full_determinism)
            self.progress.update(resumed_from=None, exactness=None, last_checkpoint=None)
            return 0
        folder, manifest = found
        self._check_same_run(folder, manifest)
        seed_everything(self.config.training.seed + 1 + self.ranks.rank, self.config.training.full_determinism)
        self.checkpoints.load(self.engine, folder, manifest)
        self.counters = Counters(**manifest.counters)  # type: ignore[arg-type]
        exactness = self._exactness(manifest)
        self.report(f"resumed {folder.name} ({exactness}: same data order{_and_bits(exactness)})")
        path = str(folder.relative_to(self.run_dir))
        self.progress.update(
            resumed_from=manifest.step,
            exactness=exactness,
            step=manifest.step,
            last_checkpoint={"step": manifest.step, "path": path},
        )
        return manifest.step

    def _exactness(self, manifest: Manifest) -> str:
        execution = self.config.execution
        same = (manifest.engine, manifest.world_size) == (execution.engine, self.ranks.size)
        layout = [manifest.trainer["execution"][n] for n in ("micro_batch", "accumulation")]
        same = same and layout == [execution.micro_batch, execution.accumulation]
        return "bit-exact" if same and self.config.training.full_determinism else "order-exact"

    def _check_same_run(self, folder: Path, manifest: Manifest) -> None:
        if manifest.data["fingerprint"] != self.fingerprint:
            raise UserError(
                "the checkpoint was trained on other data than this run's `data/` holds",
                where=str(folder),
                remedy="put the old data back, or submit a new run",
            )
        if manifest.step > self.order.max_steps:
            raise UserError(
                f"the checkpoint is at step {manifest.step}, the job now ends at step {self.order.max_steps}",
                where=str(folder),
                remedy="raise training.max_steps or num_train_epochs",
            )

    def _check_world(self) -> None:
        planned = self.config.execution.world_size
        if self.ranks.size != planned:
            raise UserError(
                f"the plan is for {planned} ranks, {self.ranks.size} were started",
                remedy="start the attempt through tuneyard, or plan again",
            )


def _and_bits(exactness: str) -> str:
    return ", same bits" if exactness == "bit-exact" else ""


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed every generator; with `deterministic`, refuse kernels that are not."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
