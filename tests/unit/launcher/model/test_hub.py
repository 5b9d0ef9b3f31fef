"""A model of the hub that the run could not load is refused before anything is written or queued."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import run
from launcher.jobfile import SettingError
from launcher.model.hub import hub_problem, require_hub_files
from launcher.trainer_process import parse_user_error

NAME = "org/small-model"
TRAINER: dict[str, Any] = {"model": {"path": NAME, "revision": None}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a hub that is not switched off."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A hub that answers as it is told, and remembers what it was asked."""
    told: dict[str, Any] = {"code": 200, "asked": []}

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            told["asked"].append((self.path, self.headers.get("Authorization")))
            self.send_response(told["code"])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield told
    server.shutdown()
    server.server_close()


def keep(cache: Path, *files: str) -> None:
    folder = cache / "models--org--small-model" / "snapshots" / "c0ffee"
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        (folder / name).touch()
    (folder.parents[1] / "refs").mkdir(exist_ok=True)
    (folder.parents[1] / "refs" / "main").write_text("c0ffee")


def test_switched_off_and_not_in_the_cache_is_refused_by_submit_with_its_line(
    write_job: Callable[..., Path], job_folder: Path, cache: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = "name: a\nmodel: {path: Qwen/Qwen2.5-0.5B-Instruct}\nmethod: {kind: lora}\n"
    job = write_job(text + "data: {train: [{path: train.jsonl}]}\nresources: {gpu: none, cpu_ranks: 1}\n")
    runs = job_folder / "runs"
    for verb in (["submit", str(job), "--runs", str(runs)], ["check", str(job)]):
        assert run([*verb, "--json"]) == 2
        shown = capsys.readouterr()
        assert len(shown.err.splitlines()) == 1, "one message, and no plan before it"
        found = json.loads(shown.out)["error"]["problems"]
        assert [(one["line"], one["key"]) for one in found] == [(2, "model.path")]
    assert not runs.exists()


def test_every_model_of_a_sweep_is_looked_for(write_job, job_folder: Path, cache: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runs = job_folder / "runs"
    words = ["--set", f"model.path=./model,{NAME}", "--runs", str(runs)]
    assert run(["sweep", str(write_job()), *words]) == 2
    assert f"{cache} does not hold it" in capsys.readouterr().err
    assert not runs.exists()


def test_what_the_cache_lacks_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "true")
    keep(cache, "config.json", "tokenizer.json")
    with pytest.raises(SettingError, match="lacks its weights, and TRANSFORMERS_OFFLINE=true"):
        require_hub_files(TRAINER, {})
    assert "its weights" in hub_problem(TRAINER, {})
    with pytest.raises(SettingError, match="does not hold it at revision abc"):
        require_hub_files({"model": {"path": NAME, "revision": "abc"}}, {})
    keep(cache, "model.safetensors")
    require_hub_files(TRAINER, {})


def test_a_site_profile_may_switch_it_off(cache: Path, hub: dict[str, Any], tmp_path: Path) -> None:
    cache.mkdir(parents=True)
    launch: dict[str, Any] = {
        "backend": "slurm",
        "slurm": {"environment": {"HF_HUB_OFFLINE": "1"}, "forward": ["HF_HOME"]},
    }
    with pytest.raises(SettingError, match="HF_HUB_OFFLINE=1"):
        require_hub_files(TRAINER, launch)
    launch["slurm"]["environment"]["HF_HOME"] = str(tmp_path / "on-the-nodes-only")
    require_hub_files(TRAINER, launch)
    require_hub_files(TRAINER, {"backend": "slurm", "slurm": {}})
    assert hub["asked"] == [], "nodes may have a network that this machine has not"


@pytest.mark.parametrize("code", [401, 403, 404])
def test_the_hub_is_asked_once_and_its_refusal_counts(
    hub: dict[str, Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub["code"] = code
    with pytest.raises(SettingError, match=f"HTTP {code}"):
        require_hub_files(TRAINER, {})
    assert hub["asked"] == [(f"/{NAME}/resolve/main/config.json", "Bearer secret")]
    hub["code"] = 503
    require_hub_files(TRAINER, {})
    hub["code"] = 302
    require_hub_files(TRAINER, {})


def test_the_token_is_looked_for_where_the_hubs_library_keeps_it(
    hub: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", "~/mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "token").write_text("secret\n")
    require_hub_files(TRAINER, {})
    (tmp_path / "mine" / "token").write_bytes(b"\xff\xfe")
    require_hub_files(TRAINER, {})
    assert [told for _, told in hub["asked"]] == ["Bearer secret", None]


def test_what_downloads_a_model_can_be_pasted(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "with a space"))
    with pytest.raises(SettingError) as refused:
        require_hub_files(TRAINER, {})
    assert f"HF_HUB_CACHE='{tmp_path}/with a space' hf download {NAME}" in refused.value.remedy


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SettingError, match=r"cannot be reached: .*refused"):
        require_hub_files(TRAINER, {})
    assert hub_problem(TRAINER, {}) == "", "a plan asks no hub"


def test_of_what_the_trainer_printed_its_own_message_is_kept() -> None:
    noise = "WARNING: setting accelerator\nTraceback of somebody\n"
    assert parse_user_error(noise + "error: rows.jsonl:7: not JSON\nmore\n  what to do: mend it\n") == (
        "rows.jsonl:7: not JSON\nmore",
        "Mend it",
    )
    assert parse_user_error("error: all bad") == ("all bad", "")
    assert parse_user_error("") == ("the trainer said nothing", "")
