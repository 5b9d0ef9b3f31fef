"""No pickle is read or written in a run directory: pickle executes code, and a run directory is shared."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.job import Layout, RunFactory
from tests.support.ranks import run_on_ranks


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> RunFactory:
    return RunFactory(tmp_path_factory.mktemp("no-pickle"))


def train_without_pickle(run_dir: str, attempt: int) -> str:
    """One attempt in which every pickle that goes through a file ends the run."""
    import pickle

    import numpy as np
    import torch

    def refuse(*arguments: Any, **_: Any) -> Any:
        raise AssertionError(f"pickle through a file: {arguments[:2]}")

    pickle.dump = pickle.load = pickle.Pickler = pickle.Unpickler = refuse  # type: ignore[assignment, misc]
    torch.save = torch.load = refuse
    loaded = np.load

    def load_without_pickle(*arguments: Any, **options: Any) -> Any:
        assert options.get("allow_pickle") is False
        return loaded(*arguments, **options)

    np.load = load_without_pickle  # type: ignore[assignment]
    from benchmarks.chaos.faults import Fault
    from benchmarks.chaos.injector import attempt as one_attempt

    faults = [Fault("stop file", 5).as_json()] if attempt == 0 else []
    return one_attempt(run_dir, attempt, faults)


def holds_pickle(file: Path) -> bool:
    """Whether a file is a pickle, or torch's archive of one."""
    if zipfile.is_zipfile(file):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(file).namelist())
    content = file.read_bytes()
    if content[:1] != b"\x80":
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(content))
    except Exception:
        return False


@pytest.mark.parametrize("engine", ["zero1", "zero3", "fsdp2"])
def test_training_saving_and_resuming_touch_no_pickle(factory: RunFactory, engine: str) -> None:
    with factory.run(f"clean-{engine}", Layout(engine, 2, "full")) as run_dir:
        assert run_on_ranks(train_without_pickle, 2, str(run_dir), 0) == ["stopped"] * 2
        (run_dir / "stop").unlink()
        assert run_on_ranks(train_without_pickle, 2, str(run_dir), 1) == ["finished"] * 2
        files = [file for file in run_dir.rglob("*") if file.is_file()]
        assert len(files) > 8
        assert [file for file in files if holds_pickle(file)] == []


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    import pickle

    import torch

    (tmp_path / "a").write_bytes(pickle.dumps({"a": 1}))
    torch.save({"a": torch.zeros(2)}, tmp_path / "b")
    (tmp_path / "c").write_text("{}")
    assert [holds_pickle(tmp_path / name) for name in "abc"] == [True, True, False]


def test_no_source_of_ours_names_a_pickle_reader() -> None:
    root = Path(__file__).parents[2]
    sources = [file for package in ("trainer", "cluster", "launcher") for file in (root / package).rglob("*.py")]
    words = ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "weights_only=False", "joblib", "dill")
    found = [f"{file.name}: {word}" for file in sources for word in words if word in file.read_text(encoding="utf-8")]
    assert found == []
