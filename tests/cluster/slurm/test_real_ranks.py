"""Real training ranks through everything that happens to machines; three runs side by side share the wait."""

import itertools
import signal
from pathlib import Path

import pytest
from slurm_runs import (
    SLOWLY,
    make_model_and_rows,
    submitted,
    tuneyard,
    write_job,
    write_profile,
)

from cluster import backend
from cluster.slurm.scheduler.commands import Scheduler
from launcher.drill.actions import signal_rank
from slurm.testbed import Testbed
from tests.cluster.outcomes.real_run import checkpoint_hashes, closed, losses, trains
from tests.cluster.outcomes.standin_run import until
from tests.support.documents import read_attempts, read_progress

STEPS = 170
WHERE = backend("slurm")


def submit_three(bed: Testbed, folder: Path) -> tuple[Path, Path, Path]:
    """`struck` on two nodes, `loop` beside it on one, `sliced` alone on a third with less time than it needs."""
    beside = ("--nodelist=n4", "--exclusive", "--time=3", "--output=/dev/null", "--wrap=sleep 40")
    bed.run("sbatch", *beside)  # leaves no idle node to `loop`
    make_model_and_rows(folder)
    low = write_profile(folder, "low", "low", more=SLOWLY)
    short = write_profile(folder, "short", "short", exclusive=True, more=SLOWLY)
    common = "hang_minutes: 0.2, grace_seconds: 20"
    write_job(folder, "struck", low, f"{common}, nodes: 2, cpu_ranks: 1", checkpoint="every_steps: 10", steps=STEPS)
    write_job(
        folder,
        "loop",
        low,
        f"{common}, nodes: 1, cpu_ranks: 1, max_crashes: 1",
        checkpoint="every_steps: 10",
        steps=STEPS,
    )
    write_job(
        folder, "sliced", short, f"{common}, nodes: 1, cpu_ranks: 2, walltime: 2m", checkpoint="keep: 2", steps=2000
    )
    struck, sliced, loop = (submitted(name, folder) for name in ("struck", "sliced", "loop"))
    return struck, sliced, loop


def strike(bed: Testbed, run: Path) -> None:
    """After its hang: a lost daemon, and a node that an administrator takes down."""
    head = trains(run, 1, steps=3)["nodes"][0]
    bed.kill_slurmd(head)  # its agent and its batch script live on, and nobody tells them
    nodes = trains(run, 2, steps=3)["nodes"]
    assert head not in nodes
    bed.power_on(head)
    bed.run("scontrol", "update", f"nodename={nodes[1]}", "state=down", "reason=test")
    closed(run, 2)
    bed.resume_node(nodes[1])


def crash_twice(run: Path) -> None:
    for attempt in (0, 1):
        trains(run, attempt, steps=2)
        signal_rank(run, attempt, 0, signal.SIGKILL)


@pytest.mark.timeout(1200)  # 7 minutes where the processors are shared with four others
def test_struck_sliced_and_crashing_runs_side_by_side(slurm_testbed: Testbed, tmp_path: Path) -> None:
    struck, sliced, loop = submit_three(slurm_testbed, tmp_path)
    trains(struck, 0, steps=12)
    signal_rank(struck, 0, 1, signal.SIGSTOP)
    crash_twice(loop)
    check_loop(loop, struck)
    strike(slurm_testbed, struck)
    last = check_slices(slurm_testbed, sliced)
    assert WHERE.wait(struck, 240).outcome == "finished"
    check_struck(struck)
    twin = undisturbed(tmp_path, last)
    for run, step in ((struck, STEPS), (sliced, last)):
        assert checkpoint_hashes(run, step) == checkpoint_hashes(twin, step) != {}, run.name
        assert losses(run) == {number: loss for number, loss in losses(twin).items() if number <= step}, run.name


def check_loop(run: Path, neighbour: Path) -> None:
    """Two crashes where one is allowed: stopped with exit code and report, beside a run that notices nothing."""
    assert WHERE.wait(run, 60).outcome == "crashed"
    first, second = read_attempts(run)
    assert [record["outcome"] for record in (first, second)] == ["crashed", "crashed"]
    assert first["nodes"][0] in read_attempts(neighbour)[0]["nodes"]
    assert second["decision"]["reason"].startswith(
        "2 crashes or hangs within 24 hours (max_crashes is 1): train: rank 0"
    )
    (job,) = Scheduler().jobs(first["generation"].partition(".")[0])
    assert (job.state, job.exit_code, job.restarts) == ("FAILED", 3, 0)
    told = tuneyard("report", run, cwd=run.parent)
    assert told.returncode == 0 and "max_crashes is 1" in (run / "report.html").read_text()


def check_slices(bed: Testbed, run: Path) -> int:
    """Two walltimes at least, one step lost at most; then cancelled by SLURM's own command, and left so.

    On a slow machine a life may end before its first step: that costs an attempt, and no step.
    """
    until(lambda: is_in_its_third_slice(run), "a third slice", 420)
    job = read_attempts(run)[0]["generation"].partition(".")[0]
    bed.run("scancel", job)
    assert WHERE.wait(run, 60).outcome == "stopped"
    assert "was cancelled; SIGTERM" in WHERE.status(run).reason
    records = read_attempts(run)
    assert {(one["outcome"], one["decision"]["action"]) for one in records[:-1]} == {("walltime", "restart")}
    assert [one["generation"] for one in records] == [f"{job}.{life}" for life in range(len(records))]
    for before, after in itertools.pairwise(records):
        assert 0 <= (before["last_step"] or 0) - after["first_step"] <= 1
    (found,) = Scheduler().jobs(job)
    assert (found.state, found.restarts) == ("CANCELLED", len(records) - 1)
    progress = read_progress(run) or {}
    assert progress["last_checkpoint"]["step"] == progress["step"], "it was saved all the same"
    return int(progress["step"])


def is_in_its_third_slice(run: Path) -> bool:
    records, progress = read_attempts(run), read_progress(run) or {}
    slices = [one for one in records if one["outcome"] == "walltime" and one["last_step"] > one["first_step"]]
    resumed = progress.get("resumed_from") or 0
    trains_now = records[-1]["outcome"] is None and progress["attempt"] == records[-1]["attempt"]
    return len(slices) >= 2 and trains_now and progress["state"] == "training" and progress["step"] > resumed > 0


def check_struck(run: Path) -> None:
    records = read_attempts(run)
    assert [record["outcome"] for record in records] == ["hang", "node_failure", "node_failure", "finished"]
    hang, daemon, down, _ = records
    assert "; rank 1 is stopped (SIGSTOP); rank 0 " in hang["cause"]
    assert [(item["kind"], item["node"]) for item in hang["evidence"]] == [("stuck_rank", hang["nodes"][1])]
    assert daemon["generation"] == hang["generation"], "a hang is restarted within its job"
    assert [(item["kind"], item["node"]) for item in daemon["evidence"]] == [("node_down", daemon["nodes"][0])]
    assert down["cause"].startswith(f"the scheduler calls {down['nodes'][1]} down; ")
    assert hang["lost_steps"] <= 10 and (read_progress(run) or {})["exactness"] == "bit-exact"


def undisturbed(folder: Path, last: int) -> Path:
    """The twin of both runs: two ranks here, at full speed, to the later one's end."""
    early, late = sorted((STEPS, last))
    write_job(folder, "twin", "local", "cpu_ranks: 2", checkpoint=f"permanent_every_steps: {early}", steps=late)
    done = tuneyard("submit", "twin.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return next(path for path in (folder / "runs").iterdir() if path.name.startswith("twin-"))
