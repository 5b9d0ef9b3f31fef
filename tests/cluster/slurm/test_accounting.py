"""A site with accounting, as nearly all have it: accounts, QOS and limits on a real slurmdbd and its database."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from slurm_runs import SlurmRun

from cluster.slurm.scheduler.commands import Scheduler
from cluster.slurm.scheduler.errors import SlurmError
from cluster.slurm.scheduler.facts import SlurmJob
from cluster.slurm.status.pending_reason import explain
from cluster.slurm.status.scheduler_facts import read_scheduler_facts
from cluster.submitting.pending import Explanation
from launcher.cli import run as command
from slurm.testbed import Testbed
from tests.cluster.outcomes.standin_run import until
from tests.support.documents import read_attempts

PROFILE = """
backend: slurm
partition: low
max_walltime: 5m
gpus_per_node: 8
gpu_types: {h100-80: h100}
cpus_per_gpu: 4
memory: "0"
"""
URGENT = ("--qos=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")


def sbatch(folder: Path, *options: str) -> str:
    script = folder / "job.sh"
    script.write_text("#!/bin/bash\nsleep 60\n")
    return Scheduler().sbatch(script, "--output=/dev/null", *options)


def why_it_waits(job_id: str) -> Explanation:
    """SLURM names the limit a moment after it has looked at the job."""

    def limited() -> SlurmJob | None:
        job = Scheduler().job(job_id)
        return job if job and job.reason.startswith(("QOS", "Assoc")) else None

    job = until(limited, "a limit as the reason")
    return explain(job, read_scheduler_facts(Scheduler(), job))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--account=nope"], "account"),
        (["--account=chemistry"], "account"),  # another user's
        (["--qos=nope"], "qos"),
        (["--account=hungry", "--qos=urgent"], "qos"),
    ],
)
def test_what_accounting_refuses(accounting_testbed: Testbed, tmp_path: Path, options: list[str], kind: str) -> None:
    with pytest.raises(SlurmError, match=r"Invalid (account|qos)") as refused:
        sbatch(tmp_path, *options)
    assert refused.value.kind == kind and "sacctmgr show assoc" in refused.value.remedy


def test_too_many_jobs_are_refused_with_the_limit_and_what_to_do(accounting_testbed: Testbed, tmp_path: Path) -> None:
    for _ in range(2):
        sbatch(tmp_path, "--qos=small", "--time=3")
    with pytest.raises(SlurmError, match="QOSMaxSubmitJobPerUserLimit") as refused:
        sbatch(tmp_path, "--qos=small", "--time=3")
    assert refused.value.kind == "limit" and "wait until jobs of yours end" in refused.value.remedy


def test_a_submission_to_a_wrong_account_tells_what_to_mend(accounting_testbed: Testbed, tmp_path: Path) -> None:
    run = SlurmRun(accounting_testbed, tmp_path / "wrong", slurm={"account": "chemistry"})
    with pytest.raises(SlurmError, match="Invalid account") as refused:
        run.submit()
    assert "set `account` in the site profile" in refused.value.remedy
    assert run.records() == []


def test_why_a_job_waits_is_told_with_the_limit_and_what_is_in_use(accounting_testbed: Testbed, tmp_path: Path) -> None:
    sbatch(tmp_path, "--qos=small", "--gpus=6", "--time=3")
    second = sbatch(tmp_path, "--qos=small", "--gpus=6", "--time=3")
    said = why_it_waits(second)
    assert said.category == "quota"
    assert said.words == "QOS small limits the GPUs of you to 8, and 6 are in use"
    assert said.remedy.startswith("nothing to do")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--account=hungry", "--gpus=5"], "it asks for 5 GPUs, and account hungry allows 4 at a time"),
        (["--qos=small", "--gpus-per-node=8", "--nodes=2"], "it asks for 16 GPUs, and QOS small allows 8 at a time"),
        (["--qos=small", "--time=6"], "it asks for more time than QOS small allows to one job (5 min)"),
    ],
)
def test_a_job_that_can_never_start_is_told_so(
    accounting_testbed: Testbed, tmp_path: Path, options: list[str], words: str
) -> None:
    said = why_it_waits(sbatch(tmp_path, "--time=3", *options))
    assert said.words == words
    assert said.remedy.startswith("it can never start as it is")


def test_limits_and_what_is_in_use_are_read_without_rights(accounting_testbed: Testbed, tmp_path: Path) -> None:
    sbatch(tmp_path, "--account=hungry", "--gpus=3")
    asking = ("scontrol", "show", "assoc_mgr", "flags=assoc,qos", "accounts=hungry")
    somebody = ("setpriv", "--reuid=65534", "--clear-groups")
    until(lambda: "gres/gpu=4(3)" in accounting_testbed.run(*somebody, *asking), "3 GPUs in use")


def doctor(folder: Path, capsys: pytest.CaptureFixture[str], more: str) -> dict[str, dict[str, str]]:
    (folder / "site.yaml").write_text(PROFILE + more)
    command(["doctor", "--profile", str(folder / "site.yaml"), "--json"])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.parametrize(
    ("more", "name", "verdict", "words"),
    [
        ("account: phisics", "account", "fail", "yours in low: hungry, physics, root"),
        ("", "account", "ok", "physics, your default"),
        ("qos: smal", "qos", "fail", "did you mean small?"),
        ("account: hungry\nqos: urgent", "qos", "fail", "there is: normal"),
        ("qos: small", "qos", "warn", "8 GPUs of a user; keep resources.nodes at 1 or fewer"),
        ("qos: small", "walltime", "ok", "5m of 5 min (QOS small)"),
        ("qos: small", "preemption", "ok", "not preempted"),
        ("qos: scavenger", "preemption", "warn", "grace_seconds: 20"),
        ("qos: scavenger", "requeue", "ok", "allowed"),
        ("qos: leftover", "requeue", "fail", "QOS leftover cancels preempted jobs"),
        ("qos: leftover\nrequeue: false", "requeue", "ok", "each job submits its follower"),
        ("qos: normal", "requeue", "ok", "allowed"),
        ("qos: scavenger\npreemption: {grace_seconds: 60}", "preemption", "fail", "set preemption.grace_seconds to 20"),
    ],
)
def test_the_doctor_knows_the_users_accounts(
    accounting_testbed: Testbed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: str,
    name: str,
    verdict: str,
    words: str,
) -> None:
    check = doctor(tmp_path, capsys, more)[name]
    assert check["verdict"] == verdict and words in f"{check['words']}; {check['remedy']}"


def test_a_draft_names_the_users_own_account(
    accounting_testbed: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["doctor", "--draft"]) == 0
    draft = capsys.readouterr().out
    assert 'account: "physics"   # yours, too: hungry, root' in draft
    assert "# preemption: {grace_seconds: 20, signal: USR1}   # with qos: scavenger; then requeue: true" in draft
    assert "# preemption: {grace_seconds: 20, signal: USR1}   # with qos: leftover; then requeue: false" in draft


@pytest.mark.parametrize(
    "site", [{"qos": "scavenger"}, {"qos": "leftover", "requeue": False}], ids=lambda site: site["qos"]
)
def test_a_run_that_gives_way_to_another_qos_comes_back_where_it_was(
    accounting_testbed: Testbed, tmp_path: Path, site: dict[str, Any]
) -> None:
    run = SlurmRun(accounting_testbed, tmp_path / "gives-way", slurm=site, nodes=4)
    run.submit()
    run.trains(0)
    accounting_testbed.run("sbatch", *URGENT)
    until(lambda: len(run.records()) == 1 and run.records()[0].get("outcome"), "the end of the first attempt")
    until(lambda: accounting_testbed.release() or len(read_attempts(run.dir)) == 2, "the second attempt")
    run.trains(1)
    run.backend.cancel(run.dir)
    assert run.ended() == "stopped"
    first, second = read_attempts(run.dir)
    assert (first["outcome"], second["first_step"]) == ("preempted", first["last_step"])


def test_a_run_killed_unsaved_under_a_qos_that_cancels_goes_on_if_it_does_not_count_on_a_requeue(
    accounting_testbed: Testbed, tmp_path: Path
) -> None:
    """Why the doctor says `requeue: false`: who does not leave within GraceTime cannot ask for another life."""
    deaf = {"steps": 10**6, "save_every": 5, "deaf": True}
    counts_on_it, goes_on = (
        SlurmRun(accounting_testbed, tmp_path / name, deaf, slurm=site, nodes=2, grace_seconds=60)
        for name, site in {"counts": {"qos": "leftover"}, "goes-on": {"qos": "leftover", "requeue": False}}.items()
    )
    for run in (counts_on_it, goes_on):
        run.submit()
        run.trains(0)
    accounting_testbed.run("sbatch", *URGENT)
    goes_on.trains(1)
    assert counts_on_it.ended() == "preempted"
    assert len(counts_on_it.records()) == 1


def test_a_job_that_the_controller_has_lost_is_known_from_accounting(
    accounting_testbed: Testbed, tmp_path: Path
) -> None:
    ended = accounting_testbed.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 3")
    until(lambda: (job := Scheduler().job(ended)) and job.state == "FAILED", "the end of the job")
    until(lambda: "FAILED" in accounting_testbed.run("sacct", "-X", "-n", "-o", "State", "-j", ended), "the record")
    accounting_testbed.stop_controller()
    shutil.rmtree(accounting_testbed.directory / "ctl" / "state")
    accounting_testbed.start_controller()
    until(lambda: set(accounting_testbed.node_states().values()) == {"idle"}, "idle nodes")
    job = Scheduler().job(ended)
    assert job is not None and (job.state, job.exit_code, job.is_alive) == ("FAILED", 3, False)
