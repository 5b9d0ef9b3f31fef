"""What the agent runs once a run has ended: the report is written, whoever looks."""

from agent_runs import Run

REPORT = ["-m", "launcher.cli", "report"]


def test_a_run_that_nobody_follows_has_a_report(run: Run) -> None:
    run.plan(["prepare"]).launch(afterwards=REPORT, backend="local")
    assert run.carry() == 0
    assert "finished" in (run.dir / "report.html").read_text()
    assert "afterwards" not in run.log("agent.log")


def test_what_fails_afterwards_changes_no_outcome_and_is_said(run: Run) -> None:
    run.plan(["prepare"]).launch(afterwards=["-c", "raise SystemExit('no room')"])
    assert run.carry() == 0
    assert run.record()["outcome"] == "finished"
    assert "ended with 1: no room" in run.log("agent.log")
