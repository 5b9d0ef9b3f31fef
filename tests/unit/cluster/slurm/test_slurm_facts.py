"""What SLURM 22.05.8 really printed (recorded on the testbed), read as facts."""

import time
from pathlib import Path

import pytest

from cluster.slurm.scheduler.commands import clean_environment
from cluster.slurm.scheduler.facts import (
    parse_config,
    parse_duration,
    parse_gpus,
    parse_jobs,
    parse_nodes,
    parse_partitions,
    parse_sacct,
    parse_time,
    parse_version,
)

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> str:
    return (RECORDED / name).read_text()


def test_jobs() -> None:
    jobs = {job.id: job for job in parse_jobs(recorded("jobs.txt"))}
    assert (jobs["1"].state, jobs["1"].reason, jobs["1"].exit_signal) == ("FAILED", "BadConstraints", 1)
    assert (jobs["6"].reason, jobs["6"].dependency) == ("DependencyNeverSatisfied", "afterok:1(failed)")
    assert jobs["6"].started is None
    assert jobs["4"].nodes == "n[1-2]" and jobs["4"].batch_host == "n1" and jobs["4"].num_nodes == 2
    assert jobs["4"].requeue and jobs["4"].time_limit_seconds == 600
    assert jobs["5_0"].array_id == "5" and jobs["5_1-3%1"].reason == "JobArrayTaskLimit"
    assert [job.id for job in jobs.values() if job.is_alive] == ["4", "5_0", "6", "7", "5_1-3%1"]


def test_free_text_imitates_no_fact() -> None:
    jobs = {job.id: job for job in parse_jobs(recorded("jobs.txt"))}
    assert "JobName=JobState=COMPLETED Restarts=9 x" in recorded("jobs.txt")
    assert (jobs["4"].state, jobs["4"].restarts) == ("RUNNING", 0)
    assert "Comment=JobState=FAILED Reason=x" in recorded("jobs.txt")
    assert (jobs["7"].state, jobs["7"].reason) == ("PENDING", "JobHeldUser")


def test_nodes() -> None:
    nodes = {node.name: node for node in parse_nodes(recorded("nodes.txt"))}
    assert list(nodes) == ["n1", "n2", "n3", "n4"]
    assert nodes["n1"].gpus == {"h100": 8} and nodes["n1"].cpus == 32 and nodes["n1"].memory_mb == 64000
    assert nodes["n1"].features == ("hopper", "ib") and nodes["n1"].partitions[0] == "low"
    assert nodes["n2"].states == ("allocated", "drain") and nodes["n2"].reason.startswith("ecc [root@")
    assert nodes["n3"].states == ("down",) and nodes["n3"].reason.startswith("Not responding State=IDLE now")


def test_partitions() -> None:
    partitions = {partition.name: partition for partition in parse_partitions(recorded("partitions.txt"))}
    assert [name for name, partition in partitions.items() if partition.is_default] == ["low"]
    assert partitions["short"].max_time_seconds == 120 and partitions["short"].grace_seconds == 20
    assert partitions["high"].priority_tier == 10 and partitions["norequeue"].preempt_mode == "CANCEL"
    assert partitions["low"].max_nodes is None and partitions["low"].num_nodes == 4


def test_config() -> None:
    config = parse_config(recorded("config.txt"))
    assert config["SlurmctldParameters"] == "preempt_send_user_signal" and config["KillWait"] == "5 sec"
    assert config["SchedulerParameters"].startswith("bf_interval=1,") and config["Prolog"] == ""
    assert config["SlurmctldHost[0]"] == "ctl(127.0.0.1)"


def test_accounting() -> None:
    text = "7|CANCELLED by 0|0:15|low|None assigned|2026-11-21T15:52:40|Unknown\n4||0:0|low|n[1-2]|x|y\nnoise\n"
    (job,) = parse_sacct(text)
    assert (job.id, job.state, job.exit_signal, job.nodes, job.ended) == ("7", "CANCELLED", 15, "", None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10", 600),
        ("2:00", 120),
        ("01:00:00", 3600),
        ("7-00:00:00", 604800),
        ("1-2", 93600),
        ("1-2:03", 93780),
        ("UNLIMITED", None),
        ("Partition_Limit", None),
        ("", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:h100:8(S:0-1)", {"h100": 8}),
        ("gpu:8", {"": 8}),
        ("gres/gpu:a100=4", {"a100": 4}),
        ("craynetwork:4,gpu:a100:4,gpu:a100_1g.5gb:14", {"a100": 4, "a100_1g.5gb": 14}),
        ("(null)", {}),
        ("mygpu:3", {}),
    ],
)
def test_gpus(text: str, gpus: dict[str, int]) -> None:
    assert parse_gpus(text) == gpus


def test_versions_and_times() -> None:
    assert parse_version("slurm-wlm 22.05.8") == (22, 5, 8) and parse_version("slurm 24.11.0-1") == (24, 11, 0)
    assert parse_version("what?") == () and parse_time("Unknown") is None
    assert parse_time("2026-11-21T15:52:40") == time.mktime((2026, 11, 21, 15, 52, 40, 0, 0, -1))


def test_the_environment_of_another_job_is_not_handed_down() -> None:
    given = {
        "SLURM_CPU_BIND": "x",
        "SBATCH_ACCOUNT": "y",
        "PMI_RANK": "0",
        "SLURM_TIME_FORMAT": "%s",
        "SQUEUE_FORMAT": "z",
    }
    assert clean_environment({**given, "SLURM_CONF": "c", "PATH": "p"}) == {"SLURM_CONF": "c", "PATH": "p"}


def test_a_job_that_the_controller_has_forgotten_does_not_live() -> None:
    """Recorded of a job that was requeued once and completed: the completion log calls its first life PENDING."""
    lives = "1|PENDING|0:0|low|n1|2026-11-21T16:38:45|2026-11-21T16:38:46\n"
    end = "1|COMPLETED|0:0|low|n1|2026-11-21T16:38:55|2026-11-21T16:38:59\n"
    (job,) = parse_sacct(lives + end)
    assert (job.state, job.is_alive) == ("COMPLETED", False)
    (lost,) = parse_sacct(lives)
    assert (lost.state, lost.is_alive) == ("FORGOTTEN", False)
    assert [job.id for job in parse_sacct(lives.replace("1|P", "7|P") + end)] == ["7", "1"]
