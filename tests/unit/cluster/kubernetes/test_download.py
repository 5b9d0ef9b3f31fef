"""A model is brought in parts: whole, resumed, checked. The far end is the text that pods run, run here."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.kubernetes.sync import download

SHARD = os.urandom(300_000)
FILES = {"config.json": b"{}", "model-00001-of-00002.safetensors": SHARD, "onnx/extra.bin": b"x" * 1000, "empty": b""}


class Pod:
    """What a pod answers, with faults: `cut` answers that never come, `spoil` a byte of the nth."""

    def __init__(self, cut: Sequence[int] = (), spoil: Sequence[int] = ()) -> None:
        self.asked: list[dict[str, object]] = []
        self._cut, self._spoil = cut, spoil

    def __call__(self, command: Sequence[str]) -> str:
        self.asked.append(json.loads(command[-1]))
        number = len(self.asked)
        if number in self._cut:
            return ""
        said = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False).stdout
        return said.replace('"data": "', '"data": "AAAA', 1) if number in self._spoil else said

    @property
    def parts(self) -> list[tuple[object, object]]:
        return [(one["path"], one["offset"]) for one in self.asked if "path" in one]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of which there are several, and no waiting."""
    monkeypatch.setattr(download, "PART_BYTES", 100_000)
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def claim(tmp_path: Path) -> Path:
    folder = tmp_path / "claim" / "model"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path / "run").mkdir()
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bring(pod: Pod, claim: Path) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    download.fetch(pod, str(claim), claim.parents[1] / "run" / "model", lambda *both: told.append(both))
    return told


def test_all_of_it_comes_and_is_counted(claim: Path, tmp_path: Path) -> None:
    total = sum(map(len, FILES.values()))
    told = bring(Pod(), claim)
    assert contents(tmp_path / "run" / "model") == FILES
    assert told[-1] == (total, total) and told == sorted(told)
    assert not (tmp_path / "run" / ".model.partial").exists()


def test_a_second_time_nothing_is_sent(claim: Path) -> None:
    bring(Pod(), claim)
    again = Pod()
    bring(again, claim)
    assert again.parts == []


@pytest.mark.parametrize("fault", ["cut", "spoil"])
def test_answers_that_are_cut_off_or_damaged_are_asked_for_again(claim: Path, tmp_path: Path, fault: str) -> None:
    bring(Pod(**{fault: [3, 5]}), claim)
    assert contents(tmp_path / "run" / "model") == FILES


def test_what_has_come_is_kept_when_the_connection_is_lost_for_good(claim: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cut off"):
        bring(Pod(cut=range(4, 100)), claim)
    assert not (tmp_path / "run" / "model").exists()
    second = Pod()
    bring(second, claim)
    assert second.parts[0] == ("model-00001-of-00002.safetensors", 100_000)
    assert contents(tmp_path / "run" / "model") == FILES


def test_a_model_that_was_written_anew_meanwhile_is_begun_anew(claim: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError):
        bring(Pod(cut=range(4, 100)), claim)
    (claim / "model-00001-of-00002.safetensors").write_bytes(SHARD[::-1])
    bring(Pod(), claim)
    assert contents(tmp_path / "run" / "model")["model-00001-of-00002.safetensors"] == SHARD[::-1]


def test_a_model_that_is_here_already_and_differs_is_never_overwritten(claim: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir()
    (tmp_path / "run" / "model" / "mine").write_text("kept")
    with pytest.raises(ClusterError, match="is there already") as refused:
        bring(Pod(), claim)
    assert "move it away" in refused.value.remedy
    assert (tmp_path / "run" / "model" / "mine").read_text() == "kept"


def test_a_second_command_at_the_same_time_is_refused(claim: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def meanwhile(command: Sequence[str]) -> str:
        with pytest.raises(ClusterError, match="another command is bringing") as refused:
            bring(Pod(), claim)
        seen.append(refused.value.message)
        return Pod()(command)

    download.fetch(meanwhile, str(claim), tmp_path / "run" / "model", lambda *_: None)
    assert seen and contents(tmp_path / "run" / "model") == FILES


def test_no_model_yet(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"no model in .* yet"):
        download.fetch(Pod(), str(tmp_path / "nothing"), tmp_path / "model", lambda *_: None)


@pytest.mark.parametrize("path", ["../model", "/etc/passwd", "a/../../b", ".hidden", "a\nb", "a b"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, path: str) -> None:
    listing = f"{json.dumps({'path': path, 'bytes': 1, 'changed': 1})}\n{json.dumps({'end': True})}"
    with pytest.raises(ClusterError, match="holds what is no model's"):
        download.fetch(lambda _: listing, "/runs/x/model", tmp_path / "model", lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


def test_links_are_not_followed(claim: Path, tmp_path: Path) -> None:
    (claim / "secret").symlink_to("/etc/hostname")
    bring(Pod(), claim)
    assert "secret" not in contents(tmp_path / "run" / "model")


def test_a_disk_that_is_too_small_is_said_before_anything_comes(tmp_path: Path) -> None:
    listing = f"{json.dumps({'path': 'm', 'bytes': 2**60, 'changed': 1})}\n{json.dumps({'end': True})}"
    with pytest.raises(ClusterError, match=r"1152921504\.6 GB of the model are still to come"):
        download.fetch(lambda _: listing, "/runs/x/model", tmp_path / "model", lambda *_: None)
