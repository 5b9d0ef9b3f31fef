"""Every reason code in words; what was not read is said to be so."""

import pytest

from cluster.slurm.scheduler.facts import Node, Partition, SlurmJob
from cluster.slurm.status.limits import reason_code
from cluster.slurm.status.pending_reason import explain
from cluster.slurm.status.scheduler_facts import SchedulerFacts
from cluster.submitting.pending import CATEGORIES

NOW = 1_000_000.0
SHORT = Partition("short", max_time_seconds=7200, num_nodes=4)
ALL = [
    ("Priority", "priority", "higher priority"),
    ("Resources", "resources", "4 fitting nodes"),
    ("BeginTime", "time", "asked to start later"),
    ("Dependency", "dependency", "waits for another job"),
    ("DependencyNeverSatisfied", "dependency", "did not end as asked"),
    ("PartitionTimeLimit", "time", "limit of partition short"),
    ("PartitionNodeLimit", "resources", "limit of partition short"),
    ("PartitionConfig", "resources", "beyond a limit"),
    ("PartitionDown", "resources", "partition is down"),
    ("PartitionInactive", "resources", "takes no jobs"),
    ("ReqNodeNotAvail, UnavailableNodes:n4", "resources", "reserved: n4"),
    ("ReqNodeNotAvail,_UnavailableNodes:n[4-5]", "resources", "reserved: n[4-5]"),
    ("ReqNodeNotAvail", "resources", "which ones was not read"),
    ("Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved", "resources", "down, drained"),
    ("JobHeldUser", "held", "owner holds it"),
    ("JobHeldAdmin", "held", "administrator"),
    ("job_requeued_in_held_state", "held", "requeued"),
    ("launch failed requeued held", "held", "could not be started"),
    ("launch_failed_requeued_held", "held", "could not be started"),
    ("JobHoldMaxRequeue", "held", "too often"),
    ("BadConstraints", "resources", "no node of this partition"),
    ("Licenses", "resources", "license"),
    ("Reservation", "resources", "reservation"),
    ("NodeDown", "resources", "down, drained"),
    ("InvalidAccount", "quota", "account is not valid"),
    ("InvalidQOS", "quota", "QOS is not valid"),
    ("JobArrayTaskLimit", "dependency", "sweep"),
    ("QOSMaxJobsPerUserLimit", "quota", "the QOS limits the running jobs of you"),
    ("QOSMaxGRESPerUser", "quota", "the QOS limits the GPUs of you"),
    ("QOSGrpGRES", "quota", "the QOS limits the GPUs of all users together"),
    ("QOSGrpCpuLimit", "quota", "the QOS limits the CPUs of all users together"),
    ("QOSMaxNodePerJobLimit", "quota", "more nodes than the QOS allows to one job"),
    ("QOSMaxWallDurationPerJobLimit", "quota", "more time than the QOS allows"),
    ("QOSMinGRES", "quota", "asks for more GPUs"),
    ("AssocGrpGRES", "quota", "your account limits the GPUs of all users together"),
    ("AssocMaxJobsLimit", "quota", "your account limits the running jobs of you"),
    ("AssocGrpCPUMinutesLimit", "quota", "budget of your account"),
    ("AssocGrpBillingMinutes", "quota", "billing units"),
    ("MaxJobsPerAccount", "other", "MaxJobsPerAccount"),
    ("None", "other", "no reason yet"),
    ("SomethingOfNextYear", "other", "SomethingOfNextYear"),
]


def job(reason: str, **more: object) -> SlurmJob:
    return SlurmJob("7", "PENDING", reason, partition="short", num_nodes=4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reason", "category", "words"), ALL, ids=[reason for reason, *_ in ALL])
def test_reasons(reason: str, category: str, words: str) -> None:
    found = explain(job(reason))
    assert found.category == category and category in CATEGORIES
    assert words in found.words
    assert found.remedy


def test_resources_with_what_was_read() -> None:
    nodes = [Node("n1", states=("idle",)), Node("n2", states=("idle", "drain")), Node("n3", states=("idle",))]
    found = explain(job("Resources", started=NOW + 5400), SchedulerFacts(nodes=nodes, now=NOW))
    assert "(2 idle, 1 idle+drain)" in found.words and "in 1 h 30 min" in found.words


def test_nothing_is_guessed() -> None:
    found = explain(job("Resources", started=NOW))
    assert "node states: not read" in found.words and "not compared" in found.words
    assert "no start time yet" in explain(job("Priority")).words
    assert "was not read" in explain(job("Priority")).words
    assert "limit of partition short is not read" in explain(job("PartitionTimeLimit")).words


def test_priority_counts_what_is_ahead() -> None:
    assert "(12 in this partition)" in explain(job("Priority"), SchedulerFacts(jobs_ahead=12)).words


@pytest.mark.parametrize(("hold", "words"), [(None, "about 2 minutes"), (8.0, "(8 s here)")])
def test_a_requeued_job_waits(hold: float | None, words: str) -> None:
    found = explain(job("BeginTime", restarts=1), SchedulerFacts(requeue_hold_seconds=hold))
    assert found.category == "time" and "requeued jobs wait" in found.words and words in found.words


def test_partition_config_names_the_limit_that_is_broken() -> None:
    read = SchedulerFacts(partition=SHORT)
    assert (
        "asks for 1 d 1 h, and the limit of partition short is 2 h"
        in explain(job("PartitionConfig", time_limit_seconds=90000), read).words
    )
    nine = SlurmJob("7", "PENDING", "PartitionConfig", partition="short", num_nodes=9, time_limit_seconds=60)
    assert "asks for 9 nodes, and the limit of partition short is 4" in explain(nine, read).words
    assert "cannot be seen from here" in explain(job("PartitionConfig", time_limit_seconds=60), read).words


def test_unavailable_nodes_with_the_sites_own_words() -> None:
    nodes = [Node("n4", states=("down",), reason="bad DIMM [root@2026]")]
    assert "n4: bad DIMM" in explain(job("ReqNodeNotAvail"), SchedulerFacts(nodes=nodes)).words


def test_reason_codes_are_compared_without_punctuation() -> None:
    assert reason_code("ReqNodeNotAvail, UnavailableNodes:n4") == reason_code("Req_Node_Not_Avail")
    assert reason_code("(null)") == reason_code("None") == reason_code("") == ""
