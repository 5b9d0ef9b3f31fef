"""Reasons taken apart, and the limit behind each found in what a real controller printed."""

from pathlib import Path

import pytest

from cluster.slurm.scheduler.accounting import Accounts, parse_associations, parse_qos
from cluster.slurm.status.limits import Limit, limit_in_force, reason_code, reason_of

RECORDED = (Path(__file__).parent / "recorded" / "assoc_mgr.txt").read_text()


@pytest.mark.parametrize(
    ("reason", "setting", "resource"),
    [
        ("QOSMaxGRESPerUser", "MaxTRESPU", "gres/gpu"),
        ("QOSMaxGRESPerJob", "MaxTRESPJ", "gres/gpu"),
        ("QOSMaxCpuPerUserLimit", "MaxTRESPU", "cpu"),
        ("QOSMaxNodePerJobLimit", "MaxTRESPJ", "node"),
        ("QOSMaxJobsPerUserLimit", "MaxJobsPU", ""),
        ("QOSMaxSubmitJobPerUserLimit", "MaxSubmitJobsPU", ""),
        ("QOSMaxGRESPerAccount", "MaxTRESPA", "gres/gpu"),
        ("QOSMaxWallDurationPerJobLimit", "MaxWallPJ", ""),
        ("QOSGrpGRES", "GrpTRES", "gres/gpu"),
        ("QOSGrpWallLimit", "GrpWall", ""),
        ("AssocGrpGRES", "GrpTRES", "gres/gpu"),
        ("AssocGrpGRESMinutes", "GrpTRESMins", "gres/gpu"),
        ("AssocGrpCPURunMinutesLimit", "GrpTRESRunMins", "cpu"),
        ("AssocGrpNodeLimit", "GrpTRES", "node"),
        ("AssocGrpMemLimit", "GrpTRES", "mem"),
        ("AssocMaxJobsLimit", "MaxJobs", ""),
        ("AssocMaxWallDurationPerJobLimit", "MaxWallPJ", ""),
    ],
)
def test_what_a_reason_is_called_as_a_setting(reason: str, setting: str, resource: str) -> None:
    found = reason_of(reason_code(reason))
    assert found is not None and (found.setting, found.resource) == (setting, resource)


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("QOSMaxGRESPerUser", Limit("QOS small", "8", "6")),  # this user's, not another's
        ("QOSMaxSubmitJobPerUserLimit", Limit("QOS small", "2", "2")),
        ("QOSMaxWallDurationPerJobLimit", Limit("QOS small", "5", "")),
        ("AssocGrpGRES", Limit("account hungry", "4", "3")),
        ("AssocGrpGRESMinutes", Limit("account hungry", "600", "590")),
        ("AssocMaxJobsLimit", Limit("account hungry", "2", "1")),
        ("AssocMaxWallDurationPerJobLimit", Limit("account hungry", "60", "")),
        ("QOSGrpGRES", None),  # N: no limit
        ("AssocGrpCpuLimit", None),
    ],
)
def test_the_limit_in_force(reason: str, limit: Limit | None) -> None:
    code = reason_of(reason_code(reason))
    assert code is not None
    assert limit_in_force(RECORDED, code, "hungry", "small", "0") == limit


def test_limits_of_others_do_not_count() -> None:
    code = reason_of("qosmaxgresperuser")
    assert code is not None
    assert limit_in_force(RECORDED, code, "hungry", "normal", "0") is None
    assert limit_in_force("", code, "hungry", "small", "0") is None


def test_accounts_and_qos() -> None:
    """Two rows for an account: the one of the partition counts there. GPUs of a type, and of all types."""
    associations = parse_associations("p1||normal,low|normal|\np1|fast|low|low|1-00:00:00\np2||normal||\nbroken|row\n")
    qos = parse_qos(
        "normal|00:00:00||cluster|||gres/gpu=8,gres/gpu:a100=4|\nlow|00:02:00||requeue||||\n"
        "high|00:00:00|low|cluster|02:00:00|gres/gpu=2||\n"
    )
    accounts = Accounts("p1", associations, qos)
    assert accounts.names("fast") == ["p1", "p2"]
    general, fast = accounts.association("", "slow"), accounts.association("p1", "fast")
    assert general is not None and (general.qos, general.max_wall_seconds) == (("normal", "low"), None)
    assert fast is not None and (fast.default_qos, fast.max_wall_seconds) == ("low", 86400)
    assert accounts.association("p3", "fast") is None
    assert [(one.name, one.grace_seconds, one.preempt_mode, one.max_gpus_per_user) for one in qos] == [
        ("normal", 0.0, "", 8),
        ("low", 120.0, "REQUEUE", None),
        ("high", 0.0, "", None),
    ]
    assert [accounts.gives_way(one) for one in qos] == [False, True, False]
    assert (qos[2].max_wall_seconds, qos[2].max_gpus_per_job) == (7200, 2)
