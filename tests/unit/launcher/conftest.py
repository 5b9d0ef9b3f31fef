"""A folder with everything that a job file can name, and helpers to write job files into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_samples import GOOD_JOB, write_model

from launcher.site.hardware import Machine


@pytest.fixture
def job_folder(tmp_path: Path) -> Path:
    """Holds `model/`, `train.jsonl`, and what damaged models look like."""
    write_model(tmp_path / "model")
    write_model(tmp_path / "odd-model", model_type="lama")
    write_model(tmp_path / "no-tokenizer").joinpath("tokenizer.json").unlink()
    write_model(tmp_path / "broken-model").joinpath("config.json").write_text("{")
    (tmp_path / "empty-model").mkdir()
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n')
    return tmp_path


@pytest.fixture
def write_job(job_folder: Path) -> Callable[..., Path]:
    """Writes a job file beside the model; `old` and `new` change one place of a good one."""

    def write(text: str | bytes = GOOD_JOB, old: str = "", new: str = "") -> Path:
        path = job_folder / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.replace(old, new).encode())
        return path

    return write


@pytest.fixture
def cpu_machine() -> Machine:
    """Two cores and 16 GiB."""
    return Machine(num_cores=2, memory_bytes=16 * 1024**3)


@pytest.fixture
def gpu_machine() -> Machine:
    """Eight GPUs of 80 GB."""
    names = ("NVIDIA H100 80GB HBM3",) * 8
    return Machine(num_cores=64, memory_bytes=2**40, gpu_names=names, gpu_memory_bytes=81559 * 1024**2)
