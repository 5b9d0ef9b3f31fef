"""What a pod sends is data: it becomes the copy of the run directory, and nothing else whatever it says."""

import base64
import json
import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.kubernetes.sync import mirror
from launcher.calibration.observed import record_run
from launcher.calibration.store import read
from rundir import paths
from rundir.outcome import StopReason
from rundir.paths import MIRRORED
from rundir.stop import StopRequest
from tests.support.documents import read_attempts, read_progress


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A run directory as a pod sees it."""
    run = tmp_path / "there"
    (run / "logs" / "attempt-000").mkdir(parents=True)
    (run / "attempts.jsonl").write_text('{"attempt": 0, "outcome": null}\n')
    (run / "progress.json").write_text('{"step": 3}')
    (run / "logs" / "attempt-000" / "agent.log").write_text("one\n")
    (run / "logs" / "attempt-000" / "rank-00000.log").write_text("zero\n")
    (run / "logs" / "attempt-000" / "rank-00001.log").write_text("first\n")
    (run / "logs" / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n')
    return run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    (folder / "logs").mkdir(parents=True)
    return folder


def ask(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def sync(there: Path, here: Path, *ranks: int) -> str:
    answer = ask(mirror.command(str(there), here, ranks or (0,)))
    assert mirror.take(answer, here) is False
    return answer


def test_only_what_changed_is_sent(there: Path, here: Path) -> None:
    sync(there, here)
    assert read_attempts(here) == [{"attempt": 0, "outcome": None}] and read_progress(here) == {"step": 3}
    log = "logs/attempt-000/agent.log"
    assert (here / log).read_text() == "one\n" and not (here / "logs/attempt-000/rank-00001.log").exists()
    assert sync(there, here).splitlines() == ['{"end": true, "more": false}']
    with open(there / log, "a") as file:
        file.write("two\n")
    (there / "progress.json").write_text('{"step": 4}')
    sent = [json.loads(line) for line in sync(there, here, 0, 1).splitlines()]
    assert [(one.get("path"), one.get("offset")) for one in sent[:-1]] == [
        ("progress.json", 0), (log, 4), ("logs/attempt-000/rank-00001.log", 0),
    ]  # fmt: skip
    assert (here / log).read_text() == "one\ntwo\n" and read_progress(here) == {"step": 4}


def test_a_log_that_began_anew_begins_anew_here(there: Path, here: Path) -> None:
    sync(there, here)
    (there / "logs/attempt-000/agent.log").write_text("x\n")
    sync(there, here)
    assert (here / "logs/attempt-000/agent.log").read_text() == "x\n"


def test_a_long_log_comes_in_parts(there: Path, here: Path) -> None:
    (there / "logs/metrics.jsonl").write_bytes(b"0123456789abcde\n" * 2**19)
    assert mirror.take(ask(mirror.command(str(there), here)), here) is True
    while mirror.take(ask(mirror.command(str(there), here)), here):
        pass
    assert (here / "logs/metrics.jsonl").read_bytes() == (there / "logs/metrics.jsonl").read_bytes()
    assert (here / "logs/attempt-000/agent.log").read_text() == "one\n"


def test_a_run_on_a_claim_teaches_the_next_plan(there: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_MEASURED", str(here.parent / "measured.jsonl"))
    key = {"cluster": "site", "gpu": "h100-80", "engine": "zero2", "family": "lora"}
    uncorrected = {"allocated_bytes": 100, "peak_bytes": 110, "step_seconds": 1.0}
    (here / "plan.json").write_text(json.dumps({"prediction": {"measured_as": key, "uncorrected": uncorrected}}))
    observed = {"steps": 300, "fill": 1.0, "step_seconds": 2.0, "memory_bytes": {"allocated": 120, "process": 130}}
    (there / "observed.json").write_text(json.dumps(observed))
    sync(there, here)
    record_run(here)
    (found,) = read(here.parent / "measured.jsonl")
    assert (found.step_seconds, found.memory, found.steps) == ((1.0, 2.0), (100, 120), 300)


def test_all_that_only_the_run_writes_is_carried(there: Path, here: Path) -> None:
    (there / "data").mkdir()
    logs = ["export.log", "evaluate.log", "train-node-01.log", "stacks-rank-00003.txt"]
    names = [*MIRRORED, "logs/metrics.jsonl", *(f"logs/attempt-000/{log}" for log in logs)]
    for name in names:
        (there / name).write_text('{"attempt": 0}\n')
    (there / "logs/attempt-000/node-01.json").write_text("{}")
    sync(there, here)
    assert {name for name in names if (here / name).read_text() == '{"attempt": 0}\n'} == set(names)
    assert not (here / "logs/attempt-000/node-01.json").exists()


def test_of_every_file_it_is_decided_whether_it_is_carried() -> None:
    """Written where the run is planned, or read by the run alone: only those stay behind."""
    behind = {paths.PLAN, paths.FINGERPRINT}
    names = {
        value for name, value in vars(paths).items() if name.isupper() and str(value).endswith((".json", ".jsonl"))
    }
    assert names - behind == {*MIRRORED, paths.METRICS}


def test_the_wish_to_stop_is_left_as_a_whole(there: Path) -> None:
    ask(mirror.stop_command(str(there), StopRequest(reason=StopReason.STOPPED, by="tuneyard stop", time=5.0)))
    assert json.loads((there / "stop").read_text()) == {"reason": "stopped", "by": "tuneyard stop", "time": 5.0}
    assert [path.name for path in there.glob(".stop*")] == []


def part(path: Any, data: bytes = b"x", offset: Any = 0) -> str:
    return json.dumps({"path": path, "offset": offset, "data": base64.b64encode(zlib.compress(data)).decode()})


HOSTILE = [
    part("../../evil"),
    part("/etc/evil"),
    part("logs/attempt-000/../../../evil.log"),
    part("logs/attempt-000/.evil.log"),
    part("logs/attempt-000/e\nvil.log"),
    part("plan.json"),
    part("job.yaml"),
    part("kubernetes.json"),
    part("stop"),
    part("logs/attempt-000/agent.log", offset=2**40),
    part("logs/attempt-000/agent.log", offset=-1),
    part("logs/attempt-000/agent.log", offset=7),
    part(7),
    json.dumps({"path": "progress.json", "offset": 0, "data": "no base64"}),
    json.dumps({"path": "progress.json", "offset": 0, "data": base64.b64encode(b"not packed").decode()}),
    json.dumps([1, 2]),
    "{half",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_hostile_answers_change_nothing(line: str, here: Path, tmp_path: Path) -> None:
    assert mirror.take(f'{line}\n{{"end": true}}\n', here) is False
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size]
    assert written == []


def test_a_link_is_not_followed(here: Path, tmp_path: Path) -> None:
    (here / "logs" / "attempt-000").mkdir()
    (tmp_path / "mine").write_text("mine")
    (here / "logs" / "attempt-000" / "agent.log").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError):
        mirror.take(part("logs/attempt-000/agent.log") + '\n{"end": true}\n', here)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_bomb_does_not_go_off(here: Path) -> None:
    mirror.take(part("progress.json", b"\0" * 2**27) + '\n{"end": true}\n', here)
    assert not (here / "progress.json").exists() or (here / "progress.json").stat().st_size <= 2**24


def test_an_answer_that_is_cut_off_is_told(here: Path) -> None:
    with pytest.raises(ClusterError, match="cut off"):
        mirror.take(part("progress.json", b"{}"), here)


def test_the_ledger_of_what_pod_0_printed(here: Path) -> None:
    ledger = {"ledger": [{"attempt": 0, "outcome": "finished"}, "no record", {"attempt": "x"}], "progress": {"step": 9}}
    log = f"pod 0: leaving\ntuneyard: {{}}\ntuneyard: {json.dumps(ledger)}\n"
    assert mirror.take_ledger(log, here)
    assert read_attempts(here) == [{"attempt": 0, "outcome": "finished"}] and read_progress(here) == {"step": 9}
    assert not mirror.take_ledger("nothing\ntuneyard: [1]\n", here)
