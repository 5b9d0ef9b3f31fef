"""Real ranks in two pods: one is preempted and replaced, and the run ends in the bits of an undisturbed one."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_runs import ROOT, Run
from pod_runs import LONG_SECONDS, Pods

from launcher.replan.materialize import PodSetup, place_run

sys.path.insert(0, str(ROOT))
from tests.support import tiny
from tests.support.documents import read_attempts

STEPS = 24
JOB = f"""
name: tiny
model: {{path: model}}
data: {{train: [{{path: rows.jsonl}}], max_length: 128}}
training: {{max_steps: {STEPS}, learning_rate: 0.01, tokens_per_step: 512, full_determinism: true}}
checkpoint: {{every_steps: 8, every_minutes: null}}
resources: {{gpu: none, cpu_ranks: 1, engine: zero2}}
"""


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    tiny.make_model(tmp_path / "model")
    tiny.write_rows(tmp_path / "rows.jsonl", 200)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def placed(volume: Path) -> Iterator[list[Run]]:
    """Two runs of one job, placed as an init container does it, planned there for two pods."""
    runs = []
    for name in ("struck", "still"):
        place_run(volume / name, volume / "job.yaml", None, PodSetup(base=volume, nodes=2))
        runs.append(Run(volume / name))
    yield runs
    for run in runs:
        run.clean_up()


def weights(run: Run) -> dict[str, str]:
    """The last checkpoint's files, hashed; the manifest tells the attempt and is left out."""
    folder = run.dir / "checkpoints" / f"step-{STEPS:08d}"
    files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")
    assert files
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_preempted_run_ends_in_the_bits_of_an_undisturbed_one(placed: list[Run]) -> None:
    struck, still = placed
    pods = Pods(struck)
    head, follower = pods.start(0), pods.start(1)
    pods.trained(0, steps=3)
    follower.terminate()
    assert follower.process.wait(2 * LONG_SECONDS) == 75
    new = pods.replace(follower, 1)
    assert [head.process.wait(2 * LONG_SECONDS), new.process.wait(2 * LONG_SECONDS)] == [0, 0], head.words
    first, last = read_attempts(struck.dir)
    assert (first["outcome"], last["outcome"]) == ("preempted", "finished")
    assert 0 < first["last_step"] < STEPS
    assert last["first_step"] == first["last_step"]
    quiet = Pods(still)
    assert [pod.process.wait(2 * LONG_SECONDS) for pod in (quiet.start(0), quiet.start(1))] == [0, 0]
    assert weights(struck) == weights(still)
    model = "model/model.safetensors"
    assert (struck.dir / model).read_bytes() == (still.dir / model).read_bytes()
