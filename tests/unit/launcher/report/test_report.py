"""The report: hostile text stays text, nothing is fetched, and the curve shows what happened."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from launcher.jobfile import load_job
from launcher.planner.plan import make_plan
from launcher.report.charts import Series, line_chart, nice_ticks, thinned, tick_text
from launcher.report.html import write_report
from launcher.runs.read import read_run

HOSTILE = "</pre><script>alert('x')</script><img src=x onerror=alert(1)>\" {{ 7 * 7 }} &amp;"


@pytest.fixture
def run_dir(write_job: Callable[..., Path], cpu_machine, tmp_path: Path) -> Path:
    """A finished run of two attempts, with hostile text wherever a stranger's text can stand."""
    folder = tmp_path / "runs" / "quick-1"
    (folder / "logs").mkdir(parents=True)
    (folder / "data").mkdir()
    job = write_job()
    (folder / "plan.json").write_text(json.dumps(make_plan(load_job(job).job, cpu_machine).as_json()))
    (folder / "job.yaml").write_text(job.read_text() + f"# {HOSTILE}\n")
    lines = [metric(step, 0) for step in range(1, 31)] + [metric(step, 1) for step in range(21, 61)]
    lines += [{"step": 30, "eval_loss": 1.5, "attempt": 1}, {"step": 60, "eval_loss": 1.25, "attempt": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 61, "lo'
    (folder / "logs" / "metrics.jsonl").write_text(text)
    progress = {"state": "finished", "step": 60, "max_steps": 60, "loss": 1.125, "tokens": 491520}
    (folder / "progress.json").write_text(json.dumps(progress | {"attempt": 1}))
    failure = {"attempt": 2, "kind": "fatal", "message": HOSTILE, "remedy": HOSTILE, "time": 1.0}
    (folder / "failure.json").write_text(json.dumps(failure))
    attempts = [
        {"attempt": 0, "outcome": "preempted", "cause": HOSTILE, "nodes": [HOSTILE], "seconds": {"train": 60.0}},
        {"attempt": 1, "outcome": "finished", "cause": "", "nodes": ["b"], "seconds": {"train": 65.0}},
    ]
    (folder / "attempts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in attempts))
    (folder / "data" / "preflight.json").write_text(json.dumps({"train": {"rows": 1234, "dropped": {HOSTILE: 7}}}))
    example = {"tag": HOSTILE, "prompt": [{"role": "user", "content": HOSTILE}], "expected": "a", "answer": HOSTILE}
    score = {"prompts": 40, "exact_match": 0.925, "contains": 0.95}
    evaluation = {**score, "by_tag": {HOSTILE: score}, "examples": [example | {"exact_match": False}]}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def metric(step: int, attempt: int) -> dict[str, float]:
    return {"step": step, "loss": 3 - step / 30, "learning_rate": 1e-3, "grad_norm": 1.0, "attempt": attempt}


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_text_stays_text(run_dir: Path) -> None:
    html = write_report(run_dir).read_text()
    elements = Elements(html).found
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in elements}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert html.count("&lt;script&gt;alert(") >= 9
    assert "{{ 7 * 7 }}" in html


def test_the_page_needs_no_network(run_dir: Path) -> None:
    html = write_report(run_dir).read_text()
    assert not re.search(r"https?://", html)
    assert not re.search(r"@import|url\(", html)
    assert "default-src 'none'" in html


def test_what_one_looks_for_first(run_dir: Path) -> None:
    html = write_report(run_dir).read_text()
    for text in ("92.5 %", "1.1250", "1.2500", "60 of 60", "491,520", "2 min 5 s", "preempted, resumed", "1,234"):
        assert text in html, text


def test_charts_can_be_read_aloud(run_dir: Path) -> None:
    elements = Elements(write_report(run_dir).read_text()).found
    charts = [attributes for tag, attributes in elements if tag == "svg"]
    assert len(charts) == 3  # loss, learning rate, gradient norm; no speed was logged
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert sum(tag == "desc" for tag, _ in elements) == 3


def test_a_step_trained_again_counts_as_trained_last(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert [line.step for line in run.training] == list(range(1, 61))
    assert [line.attempt for line in run.training] == [0] * 20 + [1] * 40


def test_a_run_that_has_only_been_planned_has_a_report(run_dir: Path) -> None:
    for name in ("progress.json", "attempts.jsonl", "evaluation.json", "logs/metrics.jsonl", "data/preflight.json"):
        (run_dir / name).unlink()
    html = write_report(run_dir).read_text()
    assert "planned" in html
    assert "No step has been logged yet." in html


def test_values_that_are_not_finite_do_not_break_the_chart() -> None:
    points = [(1.0, 2.0), (2.0, float("nan")), (3.0, float("inf")), (4.0, 1.0)]
    chart = line_chart("Loss", [Series(label="loss", points=points)])
    assert chart is not None
    assert chart.series[0].path.count("L") == 1
    assert line_chart("Loss", [Series(label="loss", points=[])]) is None


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 5, [0, 1, 2, 3, 4, 5]),
        (0.2, 4.1, [0, 1, 2, 3, 4, 5]),
        (0, 1e-3, [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
        (1, 400, [0, 100, 200, 300, 400]),
    ],
)
def test_ticks_are_round_numbers_around_the_data(low: float, high: float, ticks: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_numbers_on_an_axis_are_short() -> None:
    values = (0, 0.5, 2e-4, 100, 7500, 12500, 2e6)
    assert [tick_text(value) for value in values] == ["0", "0.5", "2e-4", "100", "7.5k", "12.5k", "2M"]


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    points = [(float(x), float(x % 7)) for x in range(100_000)]
    kept = thinned(points)
    assert len(kept) <= 601
    assert (kept[0], kept[-1]) == (points[0], points[-1])
