"""The training loop: steps over the global order, on whatever engine, from wherever the last checkpoint was."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rundir.after_training import Part
from rundir.quantities import count
from trainer.checkpoint.format.manifest import Manifest
from trainer.checkpoint.store import CheckpointStore
from trainer.config import TrainerConfig
from trainer.data.pack.batch import prefetched
from trainer.data.pack.epoch_steps import known_steps, order_key, remember_steps
from trainer.data.pack.global_order import GlobalOrder
from trainer.data.shards.token_store import TokenStore, read_fingerprint
from trainer.engines import build_engine
from trainer.errors import UserError
from trainer.evaluation.held_out import NoHeldOutLossError, held_out_loss, holds_out
from trainer.metrics.observed import Observer
from trainer.metrics.step_metrics import StepFacts, StepMetrics
from trainer.metrics.trained_parameters import counts_in_words, differs_from_plan, trained_counts
from trainer.model.sharing import build_shared_model
from trainer.model.supervised import SupervisedModel
from trainer.model_files.fingerprint import model_fingerprint
from trainer.run.finishing import note
from trainer.run.learning_rate import LearningRate
from trainer.run.resume import changes_the_curve, differences, exactness, refuse_other_run, refuse_past_the_end
from trainer.run.saving import Saver, pointer
from trainer.run.step_source import StepSource, StepWork
from trainer.runtime.collectives import Ranks
from trainer.runtime.phase_clock import PhaseClock
from trainer.runtime.progress import ProgressWriter, StopListener

logger = logging.getLogger(__name__)


@dataclass
class Counters:
    """Running totals of the run, over all attempts."""

    tokens: int = 0
    supervised_tokens: int = 0
    training_seconds: float = 0.0


class TrainingRun:
    """One attempt of a run, on one rank.

    Args:
        run_dir: the run directory, prepared.
        config: the plan's trainer part.
        attempt: number of this attempt.
        phases: where this attempt's time has gone so far.
    """

    def __init__(
        self,
        run_dir: Path,
        config: TrainerConfig,
        attempt: int,
        phases: PhaseClock | None = None,
    ) -> None:
        self.run_dir, self.config, self.attempt = run_dir, config, attempt
        self.ranks = Ranks()
        self.report = logger.info if self.ranks.is_first else logger.debug
        self.stop = StopListener(run_dir)
        self.phases = phases or PhaseClock()
        self.phases.enter("load")
        self.progress = ProgressWriter(run_dir, attempt, self.ranks.is_first, self.phases)
        self.progress.update(state="loading")
        self._check_world()
        seed_everything(config.training.seed, config.training.full_determinism)
        self.fingerprint = read_fingerprint(run_dir / "data")["content"]
        self.order = self._order()
        model = build_shared_model(config, self.ranks, self.progress.pulse)
        self._report_trained_parameters(model)
        self.engine = build_engine(model, config)
        # after loading: a model of the hub lies in its cache now
        self.model_fingerprint = self.ranks.first_decides(
            "model", lambda: model_fingerprint(config.model.path, config.model.revision)
        )
        store = CheckpointStore(run_dir / "checkpoints", self.ranks, config.checkpoint.keep, self.report)
        self.saver = Saver(store, config.checkpoint, self.progress, self.phases, self.report)
        self.counters = Counters()
        self._last_step_at: float | None = None
        self._has_evaluated = False
        self.step = self.saver.saved_step = self._resume(store)
        self.metrics = StepMetrics(run_dir, config, self.ranks, attempt, self.step)
        self.observer = Observer(run_dir, self.ranks, attempt, self.engine, self.phases)

    def _report_trained_parameters(self, model: SupervisedModel) -> None:
        counts = trained_counts(model)
        caution = differs_from_plan(self.run_dir, counts)
        self.report(counts_in_words(counts))
        if caution:
            self.report(f"warning: {caution}")
        self.progress.update(trained_parameters=counts, caution=caution or None)

    def train(self) -> str:
        """Train to the end, or until asked to stop. Returns "finished" or "stopped"."""
        self.phases.enter("first_step")
        self.progress.update(state="first_step", step=self.step, max_steps=self.order.max_steps)
        source = StepSource(self.order, self.config, self.ranks.rank, pin=self.engine.device.type == "cuda")
        # a thread collates the batches of the next steps while this one computes
        work = prefetched(source.step, self.step, self.order.max_steps)
        try:
            for _ in range(self.step, self.order.max_steps):
                if self._train_step(work):
                    break
        finally:
            work.close()
        return self._finish()

    def _train_step(self, work: Generator[StepWork, None, None]) -> bool:
        """One optimizer step, then what is due after it: metrics, an evaluation, a save. Returns whether to stop."""
        # the ranks agree on what to do next while they compute, so that the agreement costs no time
        agreed = self.ranks.any(
            bool(self.stop),
            self._on_first_rank(self.saver.overdue),
            self._on_first_rank(self.metrics.due),
            self.saver.still_writing,
        )
        started = time.monotonic()
        share = next(work)
        self._optimise(share, time.monotonic() - started)
        self.counters.training_seconds += time.monotonic() - started
        stop, save_overdue, metrics_due, still_writing = agreed.wait()
        self._mark_step()
        last = self.step == self.order.max_steps
        if not still_writing:
            self.saver.finish()  # publishes the save that was under way
        if metrics_due or last or stop:
            self._flush_metrics()
        if self._is_due(self.config.evaluation.every_steps) and not last:
            if stop or not self._has_evaluated:
                self._save_before_evaluating()
            self._evaluate()
        if stop or last or self.saver.wants(self.step, save_overdue, still_writing):
            self._start_save()
        return stop and not last

    def _mark_step(self) -> None:
        """Charge the time from here on to training, and remember the longest step.

        A stop request is answered between two steps, so it may have to wait for the longest, evaluation included.
        """
        last, self._last_step_at = self._last_step_at, time.monotonic()
        if last is not None:
            self.progress.note_longest("step", self._last_step_at - last)
        if self.phases.running == "first_step":
            self.phases.enter("training")
            self.progress.update(state="training", step=self.step)
        self.progress.pulse()

    def _optimise(self, share: StepWork, data_wait_seconds: float) -> None:
        """Forward and backward passes of this rank's micro-batches, then the optimizer's step."""
        engine, rate = self.engine, self.rate.at(self.step)
        loss = torch.zeros((), device=engine.device)
        for number, batch in enumerate(share.batches):
            loss += engine.micro_step(batch.to(engine.device), 1 / share.total, number == len(share.batches) - 1)
        norm = engine.optimizer_step(rate)
        self.step += 1
        self.counters.tokens += share.tokens
        self.counters.supervised_tokens += share.supervised_tokens
        capacity = self.config.execution.packs_per_step * self.config.data.max_length
        place = self.order.locate(self.step - 1)
        facts = StepFacts(
            step=self.step,
            epoch=place.epoch + (place.step + 1) / place.steps,
            learning_rate=rate,
            tokens=share.tokens,
            supervised_tokens=share.supervised_tokens,
            fill=share.tokens / capacity,
            data_wait_seconds=data_wait_seconds,
        )
        losses = {"loss": loss.detach() / share.total}
        if (balance := engine.model.take_balance()) is not None:
            losses["aux_loss"] = balance / share.total
        self.metrics.add(facts, losses, norm)
        self.observer.step(share.tokens, facts.fill)

    def _on_first_rank(self, flag: bool) -> bool:
        """Clocks differ between ranks, so the first rank's decides."""
        return flag and self.ranks.is_first

    def _is_due(self, steps: int | None) -> bool:
        return steps is not None and self.step % steps == 0

    def _flush_metrics(self) -> None:
        line = self.metrics.flush()
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
        """Held-out loss of this step; held-out rows without one are reported, and training goes on."""
        self._flush_metrics()
        with self.phases.within("evaluate"):
            self.progress.update(state="evaluating")
            try:
                result = held_out_loss(self.engine, self.run_dir, self.order, self.ranks, self.progress.pulse)
            except NoHeldOutLossError as error:  # on all ranks alike
                self.report(f"step {self.step}  no eval_loss: {error}")
                self._record_held_out(error)
                result = None
        self.progress.update(state="training")
        if result is not None:
            self.metrics.write({"step": self.step, **result})
            self._record_held_out()
            self.report(f"step {self.step}  eval_loss {result['eval_loss']:.4f}")

    def _save_before_evaluating(self) -> None:
        """Save and publish now, so that an evaluation that fails, or for which time is too short, loses no training.

        The attempt's first evaluation shows whether it can be done; later ones are like it.
        """
        if holds_out(self.run_dir, self.order):
            self._start_save()
            self.saver.finish()
        self._has_evaluated = True

    def _evaluate_last(self) -> None:
        """The run is trained and saved: a failure from here on costs the held-out loss, not the run."""
        self.progress.update(trained=True)
        try:
            self._evaluate()
        except BaseException as error:  # peers may wait for this rank: it cannot go on alone
            note(self.run_dir, Part.HELD_OUT, error)
            raise

    def _record_held_out(self, error: BaseException | None = None) -> None:
        if self.ranks.is_first and self.step == self.order.max_steps:
            note(self.run_dir, Part.HELD_OUT, error)

    def _start_save(self) -> None:
        """Begin to save this step; the save before is finished first, so at most one is under way."""
        self.saver.finish()
        if self.saver.saved_step == self.step:
            return
        self._flush_metrics()  # a state with an unfinite loss is never saved
        self.observer.write(self.step)
        self.saver.start(self.engine, self._manifest())
        self._remember_order()

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
            model=self.model_fingerprint,
            permanent=self.saver.is_permanent(self.step),
            schedule=self.rate.definition,
        )

    def _finish(self) -> str:
        finished = self.step >= self.order.max_steps
        self.progress.update(state="saving", step=self.step)
        self.saver.finish()
        state = "finished" if finished else "stopped"
        if self.saver.saved_step != self.step:
            self._report_unsaved(finished)
        if finished:
            self._evaluate_last()
        self.progress.update(state=state, step=self.step)
        self.report(f"{state} at step {self.step}" + ("" if finished else f": {self.stop.reason()}"))
        self.metrics.close()
        self.ranks.barrier()
        return state

    def _report_unsaved(self, finished: bool) -> None:
        """The last save failed: fatal at the end of a run; else the next attempt resumes from an older checkpoint."""
        lost = f"the state of step {self.step} could not be saved"
        if finished:
            raise UserError(
                lost,
                where=str(self.run_dir / "checkpoints"),
                remedy="free space or mend the storage, then `tuneyard resume`",
            )
        self.report(f"{lost}; the run will go on from step {self.saver.saved_step}")

    def _resume(self, store: CheckpointStore) -> int:
        seed_everything(self.config.training.seed + 1 + self.ranks.rank, self.config.training.full_determinism)
        found = store.restore(self.engine, self._check_same_run)
        if found is None:
            self.rate = LearningRate(self.config.training, self.order.max_steps)
            self.progress.update(resumed_from=None, exactness=None, last_checkpoint=None, step=0)
            return 0
        folder, manifest = found
        self.rate = LearningRate(self.config.training, self.order.max_steps, manifest.schedule)
        self.counters = Counters(**manifest.counters)  # type: ignore[arg-type]
        level, why_not = exactness(manifest, self.config)
        bits = ", same bits" if level == "bit-exact" else f"; {why_not}"
        self.report(f"resumed {folder.name} ({level}: same data order{bits})")
        self._report_changes(manifest)
        self.progress.update(
            resumed_from=manifest.step,
            exactness=level,
            step=manifest.step,
            last_checkpoint=pointer(folder, manifest.step),
        )
        return manifest.step

    def _order(self) -> GlobalOrder:
        data = self.run_dir / "data"
        key = order_key(self.fingerprint, self.config)
        known = self.ranks.first_decides("epochs", lambda: known_steps(data, key))
        self._remembered_epochs = len(known)
        return GlobalOrder(TokenStore(data / "train"), self.config, known)

    def _remember_order(self) -> None:
        """Keep the number of steps of every epoch so far: the next attempt need not pack those epochs again."""
        steps = list(self.order.steps_of_epochs)
        if self.ranks.is_first and len(steps) > self._remembered_epochs:
            remember_steps(self.run_dir / "data", order_key(self.fingerprint, self.config), steps)
            self._remembered_epochs = len(steps)

    def _check_same_run(self, folder: Path, manifest: Manifest) -> None:
        refuse_other_run(folder, manifest, self.config, self.fingerprint, self.model_fingerprint)
        refuse_past_the_end(folder, manifest, self.order.max_steps)

    def _report_changes(self, manifest: Manifest) -> None:
        for name, (then, now) in differences(manifest.trainer, self.config).items():
            if changes_the_curve(name):
                self.report(f"changed since the checkpoint: {name} was {then!r}, is {now!r}")

    def _check_world(self) -> None:
        planned = self.config.execution.world_size
        if self.ranks.size != planned:
            raise UserError(
                f"the plan is for {count(planned, 'rank')}, {self.ranks.size} were started",
                remedy="start the attempt through tuneyard, or plan again",
            )


def seed_everything(seed: int, deterministic: bool) -> None:
    """Seed every generator; with `deterministic`, refuse kernels that are not."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=False)
