"""Every finding of the doctor, from facts that are spoilt one at a time."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from cluster.slurm.profile import Profile
from cluster.slurm.scheduler.facts import Node, Partition, requeue_hold_seconds
from launcher.cli import run
from launcher.doctor import FAIL, OK, WARN, Check
from launcher.doctor.machine import disk, machine_checks
from launcher.doctor.slurm.cluster_checks import cluster_checks, megabytes
from launcher.doctor.slurm.cluster_facts import ClusterFacts
from launcher.doctor.slurm.draft import drafted
from launcher.doctor.slurm.folders import folder_checks, kind_of
from launcher.site.profile import load_profile

CONFIG = {
    "ClusterName": "alpha",
    "SLURM_VERSION": "23.11.4",
    "JobRequeue": "1",
    "PreemptType": "preempt/partition_prio",
    "SlurmctldParameters": "preempt_send_user_signal",
    "AuthInfo": "socket=/run/munge,cred_expire=30",
    "KillWait": "30 sec",
    "MaxArraySize": "1001",
}
LOW = Partition(
    "low", True, "UP", 86400.0, None, 120.0, "REQUEUE", 1, nodes="n[1-2]", num_nodes=2, accounts="ALL", groups="ALL"
)
HIGH = dataclasses.replace(LOW, name="high", is_default=False, priority_tier=9, preempt_mode="OFF", grace_seconds=0.0)
NODE = Node("n1", "", ("idle",), {"h100": 8}, 96, 1_000_000, ("ib", "hopper"), ("low", "high"))
GOOD: dict[str, Any] = {
    "partition": "low",
    "account": "p1",
    "gpu_types": {"h100-80": "h100"},
    "gpus_per_node": 8,
    "cpus_per_gpu": 12,
    "memory": "900G",
    "constraint": "ib&hopper",
    "max_walltime": "24h",
    "preemption": {"grace_seconds": 120, "signal": "USR1"},
}


def site(config: dict[str, str] | None = None, low: Partition = LOW, node: Node = NODE) -> ClusterFacts:
    nodes = [node, dataclasses.replace(node, name="n2")]
    return ClusterFacts({**CONFIG, **(config or {})}, [low, HIGH], nodes, (23, 11, 4))


def found(profile: dict[str, Any], at: ClusterFacts) -> dict[str, Check]:
    return {check.name: check for check in cluster_checks(Profile.from_dict("s", profile), at)}


def test_a_fitting_profile_has_nothing_to_mend() -> None:
    assert {check.verdict for check in found(GOOD, site()).values()} == {OK}


SPOILT: list[tuple[dict[str, Any], str, str, str]] = [
    ({"partition": "lwo"}, "partition", FAIL, "did you mean low?"),
    ({"partition": "zzz"}, "partition", FAIL, "there is: low, high"),
    ({"account": None}, "account", OK, "site's default"),
    ({"max_walltime": "2d"}, "walltime", FAIL, "at most 1 d"),
    ({"max_walltime": None}, "walltime", WARN, "1 d"),
    ({"max_walltime": "2m"}, "walltime", FAIL, "may come at once"),
    ({"gpu_types": {"a100": "a100"}}, "gpus", FAIL, "no node has a100"),
    ({"gpus_per_node": 9, "cpus_per_gpu": 1}, "gpus", FAIL, "a node has 8 x h100"),
    ({"gpu_request": "none"}, "gpus", WARN, "CPU"),
    ({"cpus_per_gpu": 13}, "cpus", FAIL, "set cpus_per_gpu to 12"),
    ({"cpus_per_gpu": None}, "cpus", WARN, "not set"),
    ({"memory": "2T"}, "memory", FAIL, "at most 1000000M"),
    ({"memory": None}, "memory", WARN, "default may be small"),
    ({"memory": "0"}, "memory", OK, "all of a node"),
    ({"constraint": "ib&volta"}, "constraint", FAIL, "no node here has volta"),
    ({"requeue": False}, "requeue", OK, "follower"),
    ({"preemption": {"grace_seconds": 300, "signal": "USR1"}}, "preemption", FAIL, "to 120"),
    ({"preemption": {}}, "preemption", WARN, "grace_seconds: 120"),
]


@pytest.mark.parametrize(("change", "name", "verdict", "words"), SPOILT, ids=lambda value: str(value)[:40])
def test_what_a_profile_gets_wrong(change: dict[str, Any], name: str, verdict: str, words: str) -> None:
    check = found(GOOD | change, site())[name]
    assert check.verdict == verdict and words in f"{check.words}; {check.remedy}"
    assert check.verdict != FAIL or check.remedy


OTHER_SITES: list[tuple[dict[str, str], dict[str, Any], str, str, str]] = [
    ({"SlurmctldParameters": ""}, {}, "preemption signal", FAIL, "preemption.signal: TERM"),
    ({"PreemptType": "preempt/qos"}, {}, "preemption", WARN, "not read"),
    ({"PreemptType": "preempt/none"}, {}, "preemption", OK, "not preempted"),
    ({"JobRequeue": "0"}, {}, "requeue", WARN, "JobRequeue=0"),
    ({}, {"preempt_mode": "CANCEL"}, "requeue", FAIL, "requeue: false"),
    ({}, {"preempt_mode": "GANG,SUSPEND"}, "requeue", WARN, "suspended"),
    ({}, {"state": "DRAIN"}, "partition", WARN, "until the site opens"),
    ({}, {"accounts": "p2,p3"}, "account", FAIL, "p2,p3"),
    ({}, {"grace_seconds": 0.0}, "preemption", FAIL, "to 0"),
    ({"SLURM_VERSION": "19.05.1"}, {}, "slurm version", WARN, "older"),
    ({"SLURM_VERSION": "24.05.1"}, {}, "slurm version", WARN, "commands here"),
    ({"KillWait": ""}, {}, "kill wait", WARN, "not read"),
    ({"MaxArraySize": "1"}, {}, "job arrays", WARN, "one by one"),
    ({"AuthInfo": ""}, {}, "requeue hold", OK, "120 s"),
    ({}, {}, "requeue hold", OK, "30 s"),
]


@pytest.mark.parametrize(("config", "low", "name", "verdict", "words"), OTHER_SITES, ids=lambda value: str(value)[:40])
def test_what_sites_differ_in(config: dict[str, str], low: dict[str, Any], name: str, verdict: str, words: str) -> None:
    check = found(GOOD, site(config, dataclasses.replace(LOW, **low)))[name]
    assert check.verdict == verdict and words in f"{check.words}; {check.remedy}"


@pytest.mark.parametrize(
    ("prepare", "verdict", "words"),
    [
        ({"partition": "low", "cpus": 1, "walltime": "1m"}, OK, "low: 1 of"),
        ({"partition": "lwo"}, FAIL, "no partition is called lwo"),
        ({"partition": "low", "walltime": "99d"}, FAIL, "99d"),
        ({"partition": "low", "cpus": 9999}, FAIL, "9999 of"),
    ],
)
def test_the_job_that_tokenises_fits_its_partition(prepare: dict[str, Any], verdict: str, words: str) -> None:
    check = found(GOOD | {"prepare": prepare}, site())["prepare"]
    assert check.verdict == verdict and words in check.words


def test_an_account_that_the_site_asks_for() -> None:
    check = found(GOOD | {"account": None}, site({"AccountingStorageEnforce": "associations,limits"}))["account"]
    assert check.verdict == WARN


def test_nodes_that_are_all_away() -> None:
    assert found(GOOD, site(node=dataclasses.replace(NODE, states=("idle", "drain"))))["nodes"].verdict == FAIL


@pytest.mark.parametrize("low", [LOW, dataclasses.replace(LOW, preempt_mode="CANCEL"), HIGH])
@pytest.mark.parametrize("node", [NODE, dataclasses.replace(NODE, gpus={}), dataclasses.replace(NODE, gpus={"": 4})])
def test_a_draft_fits_the_site_that_it_was_drafted_from(tmp_path: Path, low: Partition, node: Node) -> None:
    at = site(low=low, node=node)
    (tmp_path / "draft.yaml").write_text(drafted(at, low.name))
    checks = list(cluster_checks(load_profile(str(tmp_path / "draft.yaml")), at))
    assert [check for check in checks if check.verdict == FAIL] == []


def test_a_drafts_values_are_quoted() -> None:
    odd = dataclasses.replace(LOW, name='a: "b" #c')
    node = dataclasses.replace(NODE, partitions=(odd.name,))
    assert 'partition: "a: \\"b\\" #c"' in drafted(site(low=odd, node=node))


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_root(value: str) -> Check:
        return next(iter(folder_checks(Profile.from_dict("s", {"run_root": value} if value else {}), "/local")))

    assert run_root("").verdict == WARN
    assert "each node's own" in run_root("/dev/shm/x").words and run_root("/tmp").verdict == FAIL
    assert run_root("/local/runs").verdict == FAIL
    monkeypatch.setattr("launcher.doctor.slurm.folders.NODE_LOCAL", ())
    assert "mkdir -p" in run_root(str(tmp_path / "none")).remedy
    monkeypatch.setenv("WORK_HERE", str(tmp_path))
    assert run_root("$WORK_HERE").words.startswith(str(tmp_path))
    monkeypatch.setattr("launcher.doctor.slurm.folders.write_problem", lambda _: "Read-only file system")
    assert run_root(str(tmp_path)).verdict == FAIL


def test_kinds_of_file_systems() -> None:
    mounts = "a / ext4 rw\nb /home nfs4 rw\nc /home/my\\040disk xfs rw\nd /hom tmpfs rw\n"
    assert kind_of(Path("/home/me/runs"), mounts) == "nfs4"
    assert kind_of(Path("/home/my disk/x"), mounts) == "xfs"
    assert kind_of(Path("/homes"), mounts) == "ext4"


def test_what_a_profile_names_must_be_there(tmp_path: Path) -> None:
    image = {"kind": "apptainer", "image": str(tmp_path / "no.sif")}
    checks = {
        check.name: check
        for setup in ({"venv": str(tmp_path)}, {"container": image})
        for check in folder_checks(Profile.from_dict("s", {"setup": setup, "modules": ["cuda"]}))
    }
    assert checks["venv"].verdict == checks["container image"].verdict == FAIL
    assert "not read" in checks["modules"].words


def test_sizes_and_holds() -> None:
    assert (megabytes("480G"), megabytes("512"), megabytes("1T"), megabytes("")) == (491520, 512, 1048576, 0)
    assert requeue_hold_seconds({}) == 120


def test_this_machine(tmp_path: Path) -> None:
    checks = {check.name: check for check in machine_checks(tmp_path / "runs")}
    assert checks["python"].verdict == checks["launcher packages"].verdict == OK
    assert "cores" in checks["cores and memory"].words
    assert checks["slurm"].verdict in (OK, WARN)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.doctor.machine.write_problem", lambda _: "Permission denied")
    assert disk(tmp_path).verdict == FAIL


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(["doctor", "--runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fit"] is True
    assert run(["doctor", "--profiles"]) == 0
    assert "university" in capsys.readouterr().out
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["doctor", "--profile", "university"]) == 4
    assert "login node" in capsys.readouterr().err
    assert run(["doctor", "--profile", "universty"]) == 2
    assert "Did you mean university?" in capsys.readouterr().err
