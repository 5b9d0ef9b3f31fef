"""`tuneyard` on the real SLURM: what is submitted, what is said about it, and what never leaves its place."""

import json
import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from slurm_runs import SlurmRun, make_job, tuneyard

from cluster import ClusterError, backend
from slurm.testbed import Testbed
from tests.cluster.outcomes.real_run import checkpoint_hashes, trains
from tests.cluster.outcomes.standin_run import until
from tests.support.documents import read_attempts, read_progress

NASTY = "a 'b' \"c\" $(touch pwned) `touch pwned`; touch pwned # d,e=%j &|<> @setup@ ~ !x *?[a] naïve ✓"


def test_preempted_warned_and_requeued_real_ranks_end_as_if_nothing_had_happened(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    """Two nodes with a rank each: warned by hand, preempted, finished; bit for bit as two ranks on one node."""
    steps = 120
    make_job(tmp_path, steps)
    submitted = tuneyard("submit", "job.yaml", "--detach", "--json", cwd=tmp_path)
    assert submitted.returncode == 0, submitted.stderr
    said = json.loads(submitted.stdout)
    run, job = Path(said["run"]), said["id"]
    assert said["backend"] == "slurm"
    trains(run, attempt=0)
    slurm_testbed.run("scancel", "--batch", "--signal=USR1", job)
    trains(run, attempt=1)
    options = ("--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    slurm_testbed.run("sbatch", *options)
    where = backend("slurm")
    assert where.wait(run, 200).outcome == "finished"
    first, second, last = read_attempts(run)
    assert [record["outcome"] for record in (first, second, last)] == ["preempted", "preempted", "finished"]
    assert [record["first_step"] for record in (second, last)] == [first["last_step"], second["last_step"]]
    assert [record["lost_steps"] for record in (first, second, last)] == [0, 0, 0]
    assert read_progress(run)["exactness"] == "bit-exact"

    status = tuneyard("status", run, "--json", cwd=tmp_path)
    assert json.loads(status.stdout)["goodput"]["lost_steps"] == 0
    assert json.loads(tuneyard("list", "--json", cwd=tmp_path).stdout)[0]["outcome"] == "finished"
    assert "finished" in tuneyard("logs", run, cwd=tmp_path).stdout
    assert tuneyard("report", run, cwd=tmp_path).returncode == 0
    assert (run / "model" / "model.safetensors").exists()
    assert not list(run.rglob("*.pkl"))

    undisturbed = tuneyard("submit", "local.yaml", "--json", cwd=tmp_path)
    assert undisturbed.returncode == 0, undisturbed.stderr
    other = Path(json.loads(undisturbed.stdout)["run"])
    assert checkpoint_hashes(run, steps) == checkpoint_hashes(other, steps) != {}


def test_verbs_stop_cancel_resume_and_submit_twice(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "verbs", {"steps": 10**6}, nodes=1)
    where = run.backend
    assert where.status(run.dir).state == "none"
    job = run.submit()
    assert where.status(run.dir).state in ("queued", "running")
    with pytest.raises(ClusterError, match=f"is job {job} already"):
        run.submit()
    run.trains(0)
    told = tuneyard("stop", run.dir, "--wait", "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["outcome"] == "stopped"
    assert where.status(run.dir).outcome == "stopped"
    again = tuneyard("resume", run.dir, "--detach", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    run.trains(1)
    began = time.monotonic()
    cancelled = tuneyard("cancel", run.dir, "--json", cwd=tmp_path)
    assert json.loads(cancelled.stdout)["outcome"] == "stopped"
    assert time.monotonic() - began < 20
    assert slurm_testbed.run("squeue", "--noheader") == ""
    assert run.records()[1]["cause"] == "tuneyard cancel"
    assert run.records()[1]["first_step"] == run.records()[0]["last_step"]


def test_a_run_that_waits_says_why_and_stopping_it_takes_it_out_of_the_queue(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "waits", nodes=4)
    slurm_testbed.run("sbatch", "--nodes=4", "--exclusive", "--partition=high", "--output=/dev/null", "--wrap=sleep 60")
    job = run.submit()
    said = until(lambda: "is next" in run.backend.status(run.dir).reason and run.backend.status(run.dir), "the reason")
    assert said.state == "queued"
    assert said.reason.startswith(f"job {job}: it is next, and waits until 4 fitting nodes are free (")
    behind = SlurmRun(slurm_testbed, tmp_path / "behind", nodes=4)
    behind.submit()
    ahead = "jobs with a higher priority are before it (1 in this partition); "
    until(lambda: ahead in behind.backend.status(behind.dir).reason, "the number of jobs before it")
    behind.backend.cancel(behind.dir)
    told = tuneyard("stop", run.dir, "--json", cwd=tmp_path)
    assert json.loads(told.stdout)["outcome"] == "stopped"
    assert run.records() == []
    assert run.ended() == "stopped"


def test_a_secret_goes_where_it_is_forwarded_and_nowhere_else(
    slurm_testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, forwarded = f"canary{random.getrandbits(64):x}", f"hf_{random.getrandbits(64):x}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("HF_TOKEN", forwarded)
    monkeypatch.setenv("SLURM_CPU_BIND", "map_cpu:0")  # of a job that we are submitted from
    monkeypatch.setenv("SBATCH_PARTITION", "gone")
    run = SlurmRun(slurm_testbed, tmp_path / "secret", {"steps": 100}, slurm={"forward": ["HF_TOKEN"]})
    job = run.submit()
    run.trains(0)
    everything = [slurm_testbed.run("scontrol", "show", "job", job), slurm_testbed.run("squeue", "--format=%all")]
    pids = [pid for name in ("n1", "n2") for pid in slurm_testbed.host(name).processes()]
    everything += [Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace") for pid in pids]
    assert run.ended() == "finished"
    seen = [json.loads((run.dir / f"rank{rank}.env").read_text()) for rank in (0, 1)]
    assert [one["HF_TOKEN"] for one in seen] == [forwarded] * 2
    assert not [one for one in seen if "AWS_SECRET_ACCESS_KEY" in one or one.get("SLURM_CPU_BIND") == "map_cpu:0"]
    files = [path for path in run.dir.rglob("*") if path.is_file() and path.suffix != ".env"]
    everything += [path.read_text(errors="replace") for path in files]
    assert not [text for text in everything if canary in text or forwarded in text]


def test_hostile_values_neither_break_nor_inject(slurm_testbed: Testbed, tmp_path: Path) -> None:
    site = {"comment": NASTY + "\\", "environment": {"NASTY": NASTY + "\\", "LONG": "x" * 20000}}
    folder = tmp_path / NASTY.replace("/", "") / ("y" * 200)
    run = SlurmRun(slurm_testbed, folder, {"steps": 2}, nodes=1, slurm=site, phases=["train"])
    job = run.submit()
    assert run.ended() == "finished"
    shown = slurm_testbed.run("scontrol", "show", "job", job).splitlines()
    assert f"Comment={NASTY}\\" in [line.strip() for line in shown]
    assert (folder / "logs" / f"slurm-{job}.log").exists()
    environment = json.loads((folder / "rank0.env").read_text())
    assert (environment["NASTY"], len(environment["LONG"])) == (NASTY + "\\", 20000)
    assert not list(tmp_path.rglob("pwned"))


def test_what_slurm_refuses_is_told_in_its_words_with_what_to_do(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "refused", slurm={"partition": "gone"})
    with pytest.raises(ClusterError, match="invalid partition") as refused:
        run.submit()
    assert "partition" in refused.value.remedy
    assert run.backend.status(run.dir).state == "none"
    assert not list((run.dir / "logs").iterdir())


def test_a_job_that_ends_before_its_agent_says_so(slurm_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(slurm_testbed, tmp_path / "python", nodes=1, slurm={"python": "/no/such/python"})
    job = run.submit()
    assert run.ended() == "crashed"
    assert run.backend.status(run.dir).reason.startswith(f"job {job} ended FAILED before its agent began: ")
    assert run.records() == []


FULL_70B = """
name: full-70b
model: {path: meta-llama/Llama-3.1-70B-Instruct}
data: {train: [{path: ./rows.jsonl}], max_length: 8192}
training: {max_steps: 900, learning_rate: 1e-5, tokens_per_step: 1048576}
resources: {gpu: h100-80, nodes: 8, gpus_per_node: 8, walltime: 24h}
cluster: {profile: h100-preemptible}
"""


def test_dry_run_prints_the_script_that_an_administrator_would_read(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(FULL_70B)
    (tmp_path / "rows.jsonl").write_text("{}")
    done = tuneyard("submit", "job.yaml", "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    script, lead = plan["script"], plan["launch"]["grace_seconds"] + 15
    # 847 GB in eight parts at 1 GB/s, twice, are more than the 60 s that a small job gets
    assert 210 < plan["launch"]["grace_seconds"] < 400
    (decided,) = [one for one in plan["decisions"] if one["setting"] == "resources.grace_seconds"]
    assert "two saves of 106 s each (846.6 GB at 1 GB/s on each of 8 nodes" in decided["reason"]
    (hasty,) = [one for one in plan["decisions"] if one["setting"] == "preemption"]
    assert hasty["reason"].startswith("the site gives ")
    asked = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")]
    wanted = [
        "nodes=8",
        "ntasks-per-node=1",
        "gpus-per-node=h100:8",
        "time=1-00:00:00",
        f"signal=B:USR1@{lead}",
        "requeue",
    ]
    assert set(wanted) <= set(asked)
    assert {"export=NONE", "open-mode=append", "cpus-per-task=96", "mem=0", "exclusive"} <= set(asked)
    (tmp_path / "slurm.sh").write_text(script)
    line = ["shellcheck", "--exclude=SC1091", tmp_path / "slurm.sh"]
    assert subprocess.run(line, capture_output=True, text=True, check=False).stdout == ""
    assert not (tmp_path / "runs").exists()


def test_where_slurm_is_absent_it_says_so(tmp_path: Path) -> None:
    make_job(tmp_path, 3)
    (tmp_path / "empty").mkdir()
    python = Path(os.sys.executable)
    line = [python, "-c", "from launcher.cli import main; main()", "submit", "job.yaml"]
    environment = {"PATH": str(tmp_path / "empty"), "PYTHONPATH": str(Path(__file__).parents[3]), "HOME": "/tmp"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "SLURM is not here: sbatch: command not found" in done.stderr
    assert not (tmp_path / "runs").exists()
