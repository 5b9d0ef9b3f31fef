"""A run that was interrupted ends where an undisturbed one ends: bit for bit on the same ranks, in order on others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.drill.actions import flip_bit
from tests.support import tiny
from tests.support.ranks import RankFailedError, run_on_ranks
from trainer.config import ENGINES
from trainer.runtime.files import read_json

STEPS = 24


def train(run_dir: str, attempt: int, disturbance: str | None = None, at_step: int = 0) -> str:
    """One attempt; a thread on every rank disturbs it once progress.json has reached `at_step`."""
    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    if disturbance:
        threading.Thread(target=disturb, args=(Path(run_dir), attempt, disturbance, at_step), daemon=True).start()
    return TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), attempt).train()


def disturb(run_dir: Path, attempt: int, disturbance: str, at_step: int) -> None:
    while True:
        facts = read_json(run_dir / "progress.json") or {"attempt": None}
        there = facts["attempt"] == attempt and facts["state"] == "training" and facts["step"] >= at_step
        if there and (facts["last_checkpoint"] or disturbance != "SIGKILL"):
            break
        time.sleep(0.001)
    rank = int(os.environ["RANK"])
    if disturbance == "stop file":
        (run_dir / "stop").touch()
    elif disturbance == "SIGTERM to the last rank" and rank == int(os.environ["WORLD_SIZE"]) - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    elif disturbance == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)


def prepare_run(run_dir: str) -> None:
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare

    prepare(Path(run_dir), read_trainer_config(Path(run_dir)))


class Runs:
    """Makes prepared runs of one tiny job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny.make_model(folder / "model")
        self.rows = tiny.write_rows(folder / "rows.jsonl", 120)

    def make(self, name: str, ranks: int = 2, engine: str = "fsdp2", **changes: Any) -> Path:
        run = tiny.make_run(self.folder / name, self.config(ranks, engine, **changes))
        run_on_ranks(prepare_run, 1, str(run), distributed=False)
        return run

    def undisturbed(self, engine: str = "fsdp2", **changes: Any) -> Path:
        """A run of two ranks from its start to its end; made once for all tests that ask for the same."""
        name = f"whole-{engine}-{hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()[:8]}"
        if not (self.folder / name).exists():
            assert run_on_ranks(train, 2, str(self.make(name, engine=engine, **changes)), 0) == ["finished"] * 2
        return self.folder / name

    def config(self, ranks: int, engine: str, **changes: Any) -> dict[str, Any]:
        sections: dict[str, Any] = {
            "execution": {"engine": engine, "world_size": ranks, "accumulation": 4 // ranks},
            "training": {"max_steps": STEPS, "num_train_epochs": 1},
            "logging": {"every_seconds": 0},
            "checkpoint": {"every_steps": 6, "keep": 2},
        }
        for section, values in changes.items():
            sections[section] = {**sections.get(section, {}), **values}
        return tiny.trainer_config(self.model, self.rows, **sections)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("resume"))


def end_state(run: Path) -> dict[str, str]:
    return json.loads((run / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())["manifest"]["receipt"][
        "digest"
    ]


def curve(run: Path) -> dict[int, tuple[float, int]]:
    """Loss and tokens of every step; after a crash the last line of a step counts."""
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["tokens"]) for line in lines if "loss" in line}


@pytest.mark.parametrize("engine", ENGINES)
def test_stopped_run_resumes_bit_exactly(runs: Runs, engine: str) -> None:
    undisturbed, stopped = runs.undisturbed(engine), runs.make(f"{engine}-stopped", engine=engine)
    assert run_on_ranks(train, 2, str(stopped), 0, "stop file", 5) == ["stopped"] * 2
    progress = json.loads((stopped / "progress.json").read_text())
    assert progress["state"] == "stopped"
    assert progress["last_checkpoint"]["step"] == progress["step"] < STEPS
    (stopped / "stop").unlink()
    assert run_on_ranks(train, 2, str(stopped), 1) == ["finished"] * 2
    resumed = json.loads((stopped / "progress.json").read_text())
    assert (resumed["resumed_from"], resumed["exactness"]) == (progress["step"], "bit-exact")
    assert curve(stopped) == curve(undisturbed)
    assert end_state(stopped) == end_state(undisturbed)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_killed_run_goes_on_from_the_last_checkpoint(runs: Runs, method: str) -> None:
    changes = {"method": {"kind": "lora", "r": 4, "lora_dropout": 0.1}} if method == "lora" else {}
    undisturbed, killed = runs.undisturbed(**changes), runs.make(f"{method}-killed", **changes)
    with pytest.raises(RankFailedError, match=r"rank [01]"):
        run_on_ranks(train, 2, str(killed), 0, "SIGKILL", 8)
    assert run_on_ranks(train, 2, str(killed), 1) == ["finished"] * 2
    assert json.loads((killed / "progress.json").read_text())["resumed_from"] in (6, 12, 18)
    assert curve(killed) == curve(undisturbed)
    assert end_state(killed) == end_state(undisturbed)


def test_a_signal_to_one_rank_stops_all_at_the_same_step(runs: Runs) -> None:
    run = runs.make("signal")
    assert run_on_ranks(train, 2, str(run), 0, "SIGTERM to the last rank", 3) == ["stopped"] * 2
    assert json.loads((run / "progress.json").read_text())["last_checkpoint"]["step"] >= 3


@pytest.mark.parametrize(("engine", "ranks"), [("zero3", 1), ("zero1", 4), ("zero0", 2), ("fsdp2", 4)])
def test_other_engine_or_ranks_keep_the_order(runs: Runs, engine: str, ranks: int) -> None:
    undisturbed, moved = runs.undisturbed(), runs.make(f"{engine}-{ranks}-moved")
    run_on_ranks(train, 2, str(moved), 0, "stop file", 5)
    (moved / "stop").unlink()
    (moved / "plan.json").write_text(json.dumps({"trainer": runs.config(ranks, engine)}))
    assert run_on_ranks(train, ranks, str(moved), 1) == ["finished"] * ranks
    assert json.loads((moved / "progress.json").read_text())["exactness"] == "order-exact"
    before, after = curve(undisturbed), curve(moved)
    assert {step: tokens for step, (_, tokens) in before.items()} == {s: tokens for s, (_, tokens) in after.items()}
    for step, (loss, _) in before.items():
        assert after[step][0] == pytest.approx(loss, rel=2e-5)


def test_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(runs: Runs) -> None:
    undisturbed, damaged = runs.undisturbed(), runs.make("damaged")
    run_on_ranks(train, 2, str(damaged), 0)
    flip_bit(damaged / "checkpoints" / f"step-{STEPS:08d}" / "rank-00001.safetensors")
    assert run_on_ranks(train, 2, str(damaged), 1) == ["finished"] * 2
    assert json.loads((damaged / "progress.json").read_text())["resumed_from"] == 18
    assert end_state(damaged) == end_state(undisturbed)
    assert [p for p in (damaged / "checkpoints").iterdir() if p.name.startswith(f".damaged-step-{STEPS:08d}")]


def test_a_finished_run_goes_on_to_a_later_end(runs: Runs) -> None:
    constant = {"lr_scheduler_type": "constant", "warmup_steps": 0}
    straight = runs.make("end-straight", training={**constant, "max_steps": STEPS})
    extended = runs.make("end-extended", training={**constant, "max_steps": 14})
    run_on_ranks(train, 2, str(straight), 0)
    assert run_on_ranks(train, 2, str(extended), 0) == ["finished"] * 2
    later = runs.config(2, "fsdp2", training={**constant, "max_steps": STEPS})
    (extended / "plan.json").write_text(json.dumps({"trainer": later}))
    assert run_on_ranks(train, 2, str(extended), 1) == ["finished"] * 2
    progress = json.loads((extended / "progress.json").read_text())
    assert (progress["resumed_from"], progress["exactness"]) == (14, "order-exact"), "a longer run is another one"
    assert curve(extended) == curve(straight)
    assert end_state(extended) == end_state(straight)


def test_a_run_that_an_older_version_began_keeps_its_learning_rates(runs: Runs) -> None:
    run = runs.make("older", training={"warmup_steps": 20, "max_steps": STEPS})
    assert run_on_ranks(train, 2, str(run), 0, "stop file", 3) == ["stopped"] * 2
    (run / "stop").unlink()
    step = json.loads((run / "progress.json").read_text())["step"]
    for file in (run / "checkpoints").glob("step-*/manifest.json"):
        signed = json.loads(file.read_text())
        del signed["manifest"]["schedule"]  # which that version did not write
        signed["sha256"] = hashlib.sha256(json.dumps(signed["manifest"]).encode()).hexdigest()
        file.write_text(json.dumps(signed))
    assert run_on_ranks(train, 2, str(run), 1) == ["finished"] * 2
    lines = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    assert [rates[at] for at in (1, step, step + 1, 20)] == pytest.approx([at * 5e-5 for at in (1, step, step, 19)])
    last = json.loads((run / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())["manifest"]
    assert last["schedule"] == 1, "and keeps them for good"


CHANGES: dict[str, dict[str, Any]] = {
    r"loss\.reduction: was 'token', is 'sequence'": {"loss": {"reduction": "sequence"}},
    r"method\.r: was 4, is 8": {"method": {"kind": "lora", "r": 8}},
    r"training\.seed: was 42, is 1": {"training": {"seed": 1}},
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_makes_the_run_is_refused_with_the_difference(runs: Runs, message: str) -> None:
    old = {"method": {"kind": "lora", "r": 4}}
    run = runs.make(f"refused-{len(message)}", **old)
    run_on_ranks(train, 2, str(run), 0, "stop file", 3)
    (run / "stop").unlink()
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    (run / "plan.json").write_text(json.dumps({"trainer": runs.config(2, "fsdp2", **{**old, **CHANGES[message]})}))
    with pytest.raises(RankFailedError, match=message):
        run_on_ranks(train, 2, str(run), 1)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before, "no checkpoint is set aside for it"


def test_another_model_is_refused(runs: Runs) -> None:
    run = runs.make("other-model")
    run_on_ranks(train, 2, str(run), 0, "stop file", 3)
    (run / "stop").unlink()
    config = json.loads((run / "plan.json").read_text())
    for name, seed in (("moved", 0), ("retrained", 1)):
        shutil.copytree(runs.model, runs.folder / name)
        weights = runs.folder / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: -4 * seed or None] + bytes(4 * seed))
    config["trainer"]["model"]["path"] = str(runs.folder / "retrained")
    (run / "plan.json").write_text(json.dumps(config))
    with pytest.raises(RankFailedError, match=r"files of model\.path: were \w+, are \w+"):
        run_on_ranks(train, 2, str(run), 1)
    config["trainer"]["model"]["path"] = str(runs.folder / "moved")
    (run / "plan.json").write_text(json.dumps(config))
    assert run_on_ranks(train, 2, str(run), 2) == ["finished"] * 2, "the same model may lie elsewhere"


def test_changed_data_is_refused_with_the_difference(runs: Runs) -> None:
    run = runs.make("changed")
    run_on_ranks(train, 2, str(run), 0, "stop file", 3)
    config = json.loads((run / "plan.json").read_text())
    changes = {
        r"data\.max_length: was 256, is 200": {"max_length": 200},
        r"template: was tokenizer, is alpaca": {"chat_template": "alpaca"},
        r"content of source 1: was \w{12}, is \w{12}": {"train": [{"path": str(other_rows(runs))}]},
    }
    for message, change in changes.items():
        changed = {**config["trainer"], "data": {**config["trainer"]["data"], **change}}
        (run / "plan.json").write_text(json.dumps({"trainer": changed}))
        with pytest.raises(RankFailedError, match=message):
            run_on_ranks(prepare_run, 1, str(run), distributed=False)


def other_rows(runs: Runs) -> Path:
    return tiny.write_rows(runs.folder / "other.jsonl", 120, seed=1)


def train_on_full_storage(run_dir: str, full_from: int, full_to: int) -> str:
    """One attempt whose files cannot grow between two steps, as on a full disk."""
    import resource

    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    run = TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), 0)
    optimise = run._optimise

    def optimise_and_squeeze(*arguments: Any) -> None:
        optimise(*arguments)
        if run.step in (full_from, full_to):
            run.saver.finish()  # what is under way ends on the storage that it began on
            most = 1000 if run.step == full_from else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    run._optimise = optimise_and_squeeze  # type: ignore[method-assign]
    return run.train()


def test_full_storage_fails_the_save_and_training_goes_on(runs: Runs) -> None:
    undisturbed, full = runs.undisturbed(), runs.make("full-storage", checkpoint={"keep": 9})
    assert run_on_ranks(train_on_full_storage, 2, str(full), 8, 14) == ["finished"] * 2
    kept = sorted(p.name for p in (full / "checkpoints").iterdir())
    assert kept == ["step-00000006", "step-00000018", "step-00000024"], "no step 12, and nothing half-written"
    assert end_state(full) == end_state(undisturbed)
