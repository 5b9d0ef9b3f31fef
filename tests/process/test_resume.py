"""A run that was interrupted ends where an undisturbed one ends: bit for bit on the same ranks, in order on others."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.ranks import RankFailedError, run_on_ranks
from trainer.config import ENGINES
from trainer.files import read_json

STEPS = 24


def train(run_dir: str, attempt: int, disturbance: str | None = None, at_step: int = 0) -> str:
    """One attempt; a thread on every rank disturbs it once progress.json has reached `at_step`."""
    from trainer.config import read_trainer_config
    from trainer.loop import TrainingRun
    from trainer.progress import say

    if disturbance:
        threading.Thread(target=disturb, args=(Path(run_dir), attempt, disturbance, at_step), daemon=True).start()
    return TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), attempt, say).train()


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
    undisturbed, stopped = (runs.make(f"{engine}-{name}", engine=engine) for name in ("whole", "stopped"))
    assert run_on_ranks(train, 2, str(undisturbed), 0) == ["finished"] * 2
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
    changes: dict[str, Any] = {"method": {"kind": method}}
    if method == "lora":
        changes["method"] |= {"r": 4, "lora_dropout": 0.1}
    undisturbed, killed = (runs.make(f"kill-{method}-{name}", **changes) for name in ("whole", "killed"))
    run_on_ranks(train, 2, str(undisturbed), 0)
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
    undisturbed, moved = (runs.make(f"move-{engine}-{ranks}-{name}") for name in ("whole", "moved"))
    run_on_ranks(train, 2, str(undisturbed), 0)
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
    undisturbed, damaged = (runs.make(f"damage-{name}") for name in ("whole", "damaged"))
    run_on_ranks(train, 2, str(undisturbed), 0)
    run_on_ranks(train, 2, str(damaged), 0)
    file = damaged / "checkpoints" / f"step-{STEPS:08d}" / "rank-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert run_on_ranks(train, 2, str(damaged), 1) == ["finished"] * 2
    assert json.loads((damaged / "progress.json").read_text())["resumed_from"] == 18
    assert end_state(damaged) == end_state(undisturbed)
    assert [p for p in (damaged / "checkpoints").iterdir() if p.name.startswith(f".damaged-step-{STEPS:08d}")]


def test_changed_data_is_refused(runs: Runs) -> None:
    run = runs.make("changed")
    run_on_ranks(train, 2, str(run), 0, "stop file", 3)
    config = json.loads((run / "plan.json").read_text())
    config["trainer"]["data"]["max_length"] = 200
    (run / "plan.json").write_text(json.dumps(config))
    with pytest.raises(RankFailedError, match="this run has trained on other data: changed since then: settings"):
        run_on_ranks(prepare_run, 1, str(run), distributed=False)


def train_on_full_storage(run_dir: str, full_from: int, full_to: int) -> str:
    """One attempt whose files cannot grow between two steps, as on a full disk."""
    import resource

    from trainer.config import read_trainer_config
    from trainer.loop import TrainingRun
    from trainer.progress import say

    run = TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), 0, say)
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
    undisturbed, full = (runs.make(f"full-{name}", checkpoint={"keep": 9}) for name in ("whole", "storage"))
    run_on_ranks(train, 2, str(undisturbed), 0)
    assert run_on_ranks(train_on_full_storage, 2, str(full), 8, 14) == ["finished"] * 2
    kept = sorted(p.name for p in (full / "checkpoints").iterdir())
    assert kept == ["step-00000006", "step-00000018", "step-00000024"], "no step 12, and nothing half-written"
    assert end_state(full) == end_state(undisturbed)
