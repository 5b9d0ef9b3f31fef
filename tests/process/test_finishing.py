"""What comes after the last step cannot lose the training: it is saved first, noted when it fails, and done again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rundir.after_training import Part
from tests.support import tiny
from tests.support.ranks import RankFailedError, run_on_ranks
from trainer.runtime.files import read_json

STEPS = 2


def prepare_run(run_dir: str) -> None:
    from trainer.config import read_trainer_config
    from trainer.data.prepare import prepare

    prepare(Path(run_dir), read_trainer_config(Path(run_dir)))


def train(run_dir: str, attempt: int) -> str:
    from trainer.config import read_trainer_config
    from trainer.run.loop import TrainingRun

    return TrainingRun(Path(run_dir), read_trainer_config(Path(run_dir)), attempt).train()


def held_out_again(run_dir: str) -> dict[str, Any]:
    from trainer.config import read_trainer_config
    from trainer.evaluation.checkpoint_loss import held_out_loss_of
    from trainer.run.finishing import finishing

    with finishing(Path(run_dir), Part.HELD_OUT):
        return held_out_loss_of(Path(run_dir), read_trainer_config(Path(run_dir)))


def export_onto(run_dir: str, limit_bytes: int) -> str:
    """The error of an export on to a disk that has no room; a limit on the size of files says the same to writers."""
    import resource
    import signal

    from trainer.checkpoint.export import export
    from trainer.config import read_trainer_config
    from trainer.errors import UserError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
    try:
        export(Path(run_dir), read_trainer_config(Path(run_dir)))
    except UserError as error:
        return f"{error}"
    return ""


def make_run(folder: Path, name: str, every_steps: int | None = None) -> Path:
    if not (folder / "model").exists():
        tiny.make_model(folder / "model")
    rows = tiny.write_rows(folder / "rows.jsonl", 40)
    held_out = tiny.write_rows(folder / "held-out.jsonl", 12, seed=1)
    config = tiny.trainer_config(
        folder / "model",
        rows,
        data={"max_length": 256, "eval": {"path": str(held_out)}},
        training={"max_steps": STEPS},
        evaluation={"every_steps": every_steps},
        checkpoint={"every_steps": None},
        logging={"every_seconds": 0, "tensorboard": False},
        execution={"engine": "zero1", "world_size": 2, "accumulation": 2},
    )
    run = tiny.make_run(folder / name, config)
    run_on_ranks(prepare_run, 1, str(run), distributed=False)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finishing")


def test_the_last_evaluation_fails_and_is_done_again_alone(folder: Path) -> None:
    run = make_run(folder, "whole")
    assert run_on_ranks(train, 2, str(run), 0) == ["finished"] * 2
    whole = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()][-1]
    assert json.loads((run / "finishing.json").read_text())["held_out"]["ok"]

    broken = make_run(folder, "broken")
    tokens = broken / "data" / "eval" / "shard-00000" / "tokens.npy"
    shutil.move(tokens, folder / "aside.npy")
    with pytest.raises(RankFailedError):
        run_on_ranks(train, 2, str(broken), 0)
    progress = read_json(broken / "progress.json")
    assert progress["trained"] and progress["last_checkpoint"]["step"] == STEPS
    assert (broken / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").exists(), "published before"
    noted = read_json(broken / "finishing.json")["held_out"]
    assert not noted["ok"] and noted["message"]

    shutil.move(folder / "aside.npy", tokens)
    (line,) = run_on_ranks(held_out_again, 1, str(broken), distributed=False)
    assert (line["step"], line["eval_tokens"]) == (STEPS, whole["eval_tokens"])
    assert line["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-6)
    assert read_json(broken / "finishing.json")["held_out"]["ok"]

    said = run_on_ranks(export_onto, 1, str(broken), 4096, distributed=False)[0]
    assert "cannot be written" in said and "free space" in said
    assert not [path.name for path in broken.iterdir() if "model" in path.name], "nothing half-written stays"


def test_held_out_rows_without_weight_are_said_and_training_ends_well(folder: Path) -> None:
    run = make_run(folder, "weightless")
    index = run / "data" / "eval" / "shard-00000" / "rows.npy"
    rows = np.load(index)
    rows["weight"] = 0
    np.save(index, rows)
    assert run_on_ranks(train, 2, str(run), 0) == ["finished"] * 2
    assert read_json(run / "progress.json")["state"] == "finished"
    noted = read_json(run / "finishing.json")["held_out"]
    assert not noted["ok"] and "weight 0" in noted["message"]


def test_an_evaluation_in_mid_run_that_fails_loses_no_step(folder: Path) -> None:
    run = make_run(folder, "midway", every_steps=1)
    (run / "data" / "eval" / "shard-00000" / "tokens.npy").unlink()
    with pytest.raises(RankFailedError):
        run_on_ranks(train, 2, str(run), 0)
    assert (run / "checkpoints" / "step-00000001" / "manifest.json").exists()
    assert read_json(run / "progress.json")["last_checkpoint"]["step"] == 1
