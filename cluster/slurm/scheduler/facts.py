"""What `scontrol show` prints, as typed facts. Free text (names, paths) is never searched for settings."""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field, replace

_STARTING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
_GOING_ON = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")
LIVING = frozenset((*_STARTING, *_GOING_ON))
_CREDENTIAL_SECONDS = 120.0  # SLURM's own default
_NOTHING = ("", "(null)", "Unknown", "None", "N/A", "NONE", "n/a")
_FREE_TEXT = re.compile(r"\s*(Command|WorkDir|StdErr|StdIn|StdOut|\w*Comment|Extra|Reason|OS)=")
_SETTING = re.compile(r"(?<!\S)([A-Z][\w/:&.\[\]]*)=(\S*)")
_GPU = re.compile(r"(?:^|,)(?:gres[:/])?gpu(?::([A-Za-z][\w.-]*))?[:=](\d+)")


@dataclass(frozen=True)
class SlurmJob:
    """One job as the controller sees it. Times are Unix seconds; None is not known."""

    id: str
    state: str  # PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, PREEMPTED, NODE_FAIL, CANCELLED, ...
    reason: str = ""
    restarts: int = 0
    requeue: bool = False
    partition: str = ""
    num_nodes: int = 0
    nodes: str = ""
    """Compressed, as SLURM writes it: n[1-4]."""
    batch_host: str = ""
    excluded_nodes: str = ""
    exit_code: int | None = None
    exit_signal: int | None = None
    submitted: float | None = None
    eligible: float | None = None
    started: float | None = None
    """When it started; of a pending job when SLURM expects it to, if it has an idea."""
    ended: float | None = None
    time_limit_seconds: float | None = None
    dependency: str = ""
    priority: int | None = None
    array_id: str = ""
    array_task: str = ""
    stdout: str = ""
    account: str = ""
    qos: str = ""
    user_id: str = ""
    resources: dict[str, float] = field(default_factory=dict)
    """What it asks for, by SLURM's names (`node`, `cpu`, `gres/gpu`), where that is a plain number."""

    @property
    def is_alive(self) -> bool:
        """Whether it waits, runs, or is about to do so again."""
        return self.state in LIVING


@dataclass(frozen=True)
class Node:
    """One node, in `scontrol show node`'s words; `states` are lower case with all flags."""

    name: str
    address: str = ""
    states: tuple[str, ...] = ()
    gpus: dict[str, int] = field(default_factory=dict)
    """Number by type; an empty type where the site names none."""
    cpus: int = 0
    memory_mb: int = 0
    features: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    reason: str = ""
    version: str = ""


@dataclass(frozen=True)
class Partition:
    """One partition. None is no limit."""

    name: str
    is_default: bool = False
    state: str = ""
    max_time_seconds: float | None = None
    max_nodes: int | None = None
    grace_seconds: float = 0.0
    preempt_mode: str = ""
    priority_tier: int = 0
    nodes: str = ""
    num_nodes: int = 0
    accounts: str = ""
    groups: str = ""
    qos: str = ""


def parse_jobs(text: str) -> list[SlurmJob]:
    """All jobs in the output of `scontrol show job`."""
    return [_job(_settings(block)) for block in re.split(r"\n\s*\n", text) if "JobId=" in block]


def parse_nodes(text: str) -> list[Node]:
    """All nodes in the output of `scontrol show node`."""
    blocks = re.split(r"\n\s*\n", text)
    return [_node(_settings(block)) for block in blocks if block.lstrip().startswith("NodeName=")]


def parse_partitions(text: str) -> list[Partition]:
    """All partitions in the output of `scontrol show partition`."""
    blocks = re.split(r"\n\s*\n", text)
    return [_partition(_settings(block)) for block in blocks if block.lstrip().startswith("PartitionName=")]


def parse_config(text: str) -> dict[str, str]:
    """`scontrol show config` by setting; what is not set is an empty string."""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[\w\[\]]+", name.strip()):
            found[name.strip()] = "" if value.strip() in ("(null)", "") else value.strip()
    return found


def requeue_hold_seconds(config: dict[str, str]) -> float:
    """What a requeued job waits before it may start again: the lifetime of its credential."""
    found = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    return float(found[1]) if found else _CREDENTIAL_SECONDS


def parse_version(text: str) -> tuple[int, ...]:
    """`slurm 23.11.4` or `slurm-wlm 22.05.8` as numbers; empty when there are none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return tuple(int(part) for part in found.groups() if part is not None) if found else ()


def parse_sacct(text: str) -> list[SlurmJob]:
    """Jobs in the output of `sacct --parsable2` with SACCT_FIELDS, each as it was started last.

    It is asked about jobs that the controller has forgotten, so none of them lives, whatever accounting believes.
    """
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == len(SACCT_FIELDS) - 1]
    last = {cells[0]: _accounted(cells) for cells in rows if cells[1]}  # some requeued starts have no state at all
    return [replace(job, state=FORGOTTEN) if job.is_alive else job for job in last.values()]


FORGOTTEN = "FORGOTTEN"
"""The state of a job that accounting takes for alive, and the controller does not know."""
SACCT_FIELDS = ("JobID", "State", "ExitCode", "Partition", "NodeList", "Start", "End")


def parse_gpus(text: str) -> dict[str, int]:
    """GPUs by type out of a generic resource: `gpu:h100:8(S:0-1)`, `gpu:4`, `gres/gpu=8`."""
    found: dict[str, int] = {}
    for kind, count in _GPU.findall(text):
        found[kind] = found.get(kind, 0) + int(count)
    return found


def parse_duration(text: str) -> float | None:
    """Seconds of `days-hours:minutes:seconds`, `minutes:seconds`, or minutes; None without a limit."""
    if text.upper() in ("UNLIMITED", "INFINITE", "NOT_SET", "PARTITION_LIMIT", "") or text in _NOTHING:
        return None
    days, _, rest = text.rpartition("-")
    parts = [float(part) for part in rest.split(":")]
    if days:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = [*parts, 0.0, 0.0][:3]
        return int(days) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 1:
        return parts[0] * 60
    hours, minutes, seconds = [0.0, *parts][-3:]
    return hours * 3600 + minutes * 60 + seconds


def parse_time(text: str) -> float | None:
    """Unix seconds of SLURM's local time; None when it is not known."""
    with contextlib.suppress(ValueError):
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    return None


def _settings(block: str) -> dict[str, str]:
    """Each setting of one record. The first of a name counts: free text comes after what it could imitate."""
    found: dict[str, str] = {}
    for line in block.strip().splitlines():
        if free := _FREE_TEXT.match(line):
            found.setdefault(free[1], line.partition("=")[2].strip())
            continue
        # JobName is the last setting of its line, and may hold anything
        for name, value in _SETTING.findall(line.partition(" JobName=")[0]):
            found.setdefault(name, "" if value in _NOTHING else value)
    return found


def _job(found: dict[str, str]) -> SlurmJob:
    code, _, number = found.get("ExitCode", "").partition(":")
    array, task = found.get("ArrayJobId", ""), found.get("ArrayTaskId", "")
    requested = (part.partition("=") for part in (found.get("ReqTRES") or found.get("TRES", "")).split(","))
    return SlurmJob(
        id=f"{array}_{task}" if array and task else found.get("JobId", ""),
        state=found.get("JobState", ""),
        reason=found.get("Reason", ""),
        restarts=_integer(found.get("Restarts")) or 0,
        requeue=found.get("Requeue") == "1",
        partition=found.get("Partition", ""),
        num_nodes=_integer(found.get("NumNodes", "").partition("-")[0]) or 0,  # "4-4" while it waits
        nodes=found.get("NodeList", ""),
        batch_host=found.get("BatchHost", ""),
        excluded_nodes=found.get("ExcNodeList", ""),
        exit_code=_integer(code),
        exit_signal=_integer(number),
        submitted=parse_time(found.get("SubmitTime", "")),
        eligible=parse_time(found.get("EligibleTime", "")),
        started=parse_time(found.get("StartTime", "")),
        ended=parse_time(found.get("EndTime", "")),
        time_limit_seconds=parse_duration(found.get("TimeLimit", "")),
        dependency=found.get("Dependency", ""),
        priority=_integer(found.get("Priority")),
        array_id=array,
        array_task=task,
        stdout=found.get("StdOut", ""),
        account=found.get("Account", ""),
        qos=found.get("QOS", ""),
        user_id="".join(re.findall(r"\((\d+)\)", found.get("UserId", ""))),
        resources={name: float(amount) for name, _, amount in requested if re.fullmatch(r"\d+(\.\d+)?", amount)},
    )


def _accounted(cells: list[str]) -> SlurmJob:
    row = dict(zip(SACCT_FIELDS, cells, strict=True))
    code, _, number = row["ExitCode"].partition(":")
    return SlurmJob(
        id=row["JobID"],
        state=row["State"].split(" ")[0],  # "CANCELLED by 1000"
        partition=row["Partition"],
        nodes="" if row["NodeList"] in (*_NOTHING, "None assigned") else row["NodeList"],
        exit_code=_integer(code),
        exit_signal=_integer(number),
        started=parse_time(row["Start"]),
        ended=parse_time(row["End"]),
    )


def _node(found: dict[str, str]) -> Node:
    return Node(
        name=found.get("NodeName", ""),
        address=found.get("NodeAddr", ""),
        states=tuple(re.split(r"[+*~#!%$@^-]+", found.get("State", "").lower().rstrip("*~#!%$@^-"))),
        gpus=parse_gpus(found.get("Gres", "")),
        cpus=_integer(found.get("CPUTot")) or 0,
        memory_mb=_integer(found.get("RealMemory")) or 0,
        features=listed(found.get("AvailableFeatures", "")),
        partitions=listed(found.get("Partitions", "")),
        reason=found.get("Reason", ""),
        version=found.get("Version", ""),
    )


def _partition(found: dict[str, str]) -> Partition:
    return Partition(
        name=found.get("PartitionName", ""),
        is_default=found.get("Default") == "YES",
        state=found.get("State", ""),
        max_time_seconds=parse_duration(found.get("MaxTime", "")),
        max_nodes=_integer(found.get("MaxNodes")),
        grace_seconds=float(_integer(found.get("GraceTime")) or 0),
        preempt_mode=found.get("PreemptMode", ""),
        priority_tier=_integer(found.get("PriorityTier")) or 0,
        nodes=found.get("Nodes", ""),
        num_nodes=_integer(found.get("TotalNodes")) or 0,
        accounts=found.get("AllowAccounts", ""),
        groups=found.get("AllowGroups", ""),
        qos=found.get("AllowQos", ""),
    )


def listed(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part for part in text.split(",") if part)


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None
