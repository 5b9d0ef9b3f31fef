"""Run directories of an earlier version: what the command line says about them, and that no document loses a key."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from launcher.cli import tuneyard
from rundir.after_training import Part, PartEnd, read_part_ends
from rundir.attempts import AttemptRecord, put_attempt, read_attempts
from rundir.document import Document
from rundir.files import json_lines, write_json
from rundir.metrics import Metrics
from rundir.observed import Observed
from rundir.outcome import Outcome
from rundir.plan import Plan, read_plan
from rundir.progress import Failure, Progress, read_progress
from rundir.stop import StopRequest, read_stop

GOLDEN = Path(__file__).parents[2] / "data" / "golden_runs"
NAMES = sorted(path.parent.name for path in (GOLDEN / "runs").glob("*/plan.json"))
DOCUMENTS: dict[str, type[Document]] = {
    "plan.json": Plan,
    "progress.json": Progress,
    "failure.json": Failure,
    "observed.json": Observed,
    "stop": StopRequest,
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs, as the maker of `expected/` read them: no scheduler answers, heartbeats are old."""
    copy = shutil.copytree(GOLDEN / "runs", tmp_path / "runs")
    for path in copy.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text().replace("/golden/runs", str(copy)))
            os.utime(path, (1.5e9, 1.5e9))
    monkeypatch.setenv("PATH", "/nowhere")
    return copy


def said(runs: Path, *words: str) -> str:
    done = CliRunner().invoke(tuneyard, list(words), catch_exceptions=False)
    return re.sub(r"heard .* ago", "heard some time ago", done.stdout.replace(str(runs), "/golden/runs"))


def words(text: str) -> str:
    """Without the spaces and line breaks that a table puts around a longer path."""
    return "".join(text.split())


def expected(name: str) -> str:
    return (GOLDEN / "expected" / name).read_text()


def test_the_list_of_runs_is_as_it_was(runs: Path) -> None:
    assert json.loads(said(runs, "list", "--runs", str(runs), "--json")) == json.loads(expected("list.json"))
    assert words(said(runs, "list", "--runs", str(runs))) == words(expected("list.txt"))


@pytest.mark.parametrize("name", NAMES)
def test_the_status_of_a_run_is_as_it_was(runs: Path, name: str) -> None:
    assert json.loads(said(runs, "status", str(runs / name), "--json")) == json.loads(expected(f"{name}.status.json"))
    assert words(said(runs, "status", str(runs / name))) == words(expected(f"{name}.status.txt"))


@pytest.mark.parametrize("name", NAMES)
def test_the_report_of_a_run_is_as_it_was(runs: Path, name: str) -> None:
    said(runs, "report", str(runs / name))
    shown = visible_lines((runs / name / "report.html").read_text(), runs)
    assert shown == [line for line in expected(f"{name}.report.txt").splitlines() if ", written " not in line]


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.lines += [line.strip() for line in data.splitlines() if line.strip()]


def visible_lines(html: str, runs: Path) -> list[str]:
    parser = _Text()
    parser.feed(html.replace(str(runs), "/golden/runs"))
    return [line for line in parser.lines if ", written " not in line]


def documents(name: str) -> Iterator[tuple[type[Document], object]]:
    """Every document of a run as JSON, with its type."""
    run = GOLDEN / "runs" / name
    for file, kind in DOCUMENTS.items():
        if (run / file).exists() and (text := (run / file).read_text()).strip():
            yield kind, json.loads(text)
    yield from ((AttemptRecord, line) for line in json_lines(run / "attempts.jsonl"))
    yield from ((Metrics, line) for line in json_lines(run / "logs" / "metrics.jsonl"))
    if (run / "finishing.json").exists() and isinstance(
        parts := json.loads((run / "finishing.json").read_text()), dict
    ):
        yield from ((PartEnd, end) for end in parts.values())


@pytest.mark.parametrize("name", NAMES)
def test_no_document_loses_a_key_or_a_value(name: str) -> None:
    for kind, value in documents(name):
        assert json.dumps(kind.from_json(value).to_json()) == json.dumps(value)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "damaged"])
def test_files_that_are_written_again_keep_every_byte(runs: Path, name: str) -> None:
    run = runs / name
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for record in read_attempts(run):
        put_attempt(run, record)
    if "indent" in before["plan.json"].decode() or before["plan.json"].startswith(b"{\n"):
        write_json(run / "plan.json", read_plan(run))
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_damaged_run_reads_as_far_as_it_is_sound(runs: Path) -> None:
    run = runs / "damaged"
    first, hung, bare = read_attempts(run)
    assert (first.outcome, hung.outcome, bare.outcome) == (Outcome.STOPPED, Outcome.HANG, None)
    assert (hung.nodes, hung.evidence, dict(hung.seconds), hung.decision) == ((), (), {}, type(hung.decision)())
    progress = read_progress(run)
    assert (progress.attempt, progress.state, progress.last_checkpoint.step, progress.loss) == (
        3,
        "dreaming",
        None,
        None,
    )
    assert (stop := read_stop(run)) is not None and stop.is_users
    assert read_part_ends(run) == {}


def test_the_end_of_each_part_after_training_is_known(runs: Path) -> None:
    ends = read_part_ends(runs / "after_training_failed")
    assert {part: end.ok for part, end in ends.items()} == {
        Part.HELD_OUT: True,
        Part.EXPORT: False,
        Part.EVALUATE: True,
    }
