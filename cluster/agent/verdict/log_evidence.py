"""What the logs of a failed attempt prove: a table of known last words, each with what it means.

Logs also hold what users print, so a line counts only where a failure speaks: as the last line of a traceback,
or behind a prefix that PyTorch, NCCL or the NVIDIA driver writes. A data row that quotes an error proves nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rundir.attempts import EvidenceRecord
from rundir.outcome import Outcome
from rundir.quantities import count

_TAIL_BYTES = 65536
_LINE_CHARACTERS = 300
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?")
_TRACEBACK = "Traceback (most recent call last):"
_KNOWN_PREFIX = re.compile(
    r"^\[rank\d+\]:\[[EWF]\d{4} "  # PyTorch's C++ log, e.g. the NCCL watchdog
    r"|^\[[EWF]\d{4} "
    r"|^\S+:\d+:\d+ \[\d+\] .*NCCL WARN "
    r"|^(\[[ \d.]+\] )?NVRM: "
    r"|^  what\(\): "
    r"|^Unable to determine the device handle for "
)
_BEFORE_LOGS = ("lost_node", "left_node", "host_out_of_memory")
_HARDWARE_XIDS = "48|6[1-4]|74|79|92|9[45]|119|120|140"


@dataclass(frozen=True)
class Rule:
    """One kind of last words: what they look like, the outcome they prove, and who is to blame."""

    kind: str
    pattern: re.Pattern[str]
    outcome: Outcome
    blames: str  # job | node | suspect | storage
    words: str
    remedy: str = ""


@dataclass(frozen=True)
class Evidence:
    """A line that proves something."""

    kind: str
    node: str
    line: str
    blames: str
    outcome: Outcome = Outcome.CRASHED
    words: str = ""
    remedy: str = ""

    def record(self) -> EvidenceRecord:
        """How it is kept in the attempt's record."""
        return EvidenceRecord(kind=self.kind, node=self.node, line=self.line, blames=self.blames)


def _rule(kind: str, pattern: str, outcome: Outcome, blames: str, words: str, remedy: str = "") -> Rule:
    return Rule(kind, re.compile(pattern), outcome, blames, words, remedy)


RULES = (
    _rule(
        "gpu_hardware",
        r"CUDA error: uncorrectable (ECC|NVLink)|fallen off the bus|GPU is lost|CUDA error: .*ECC error"
        rf"|NVRM: Xid \([^)]*\): ({_HARDWARE_XIDS}),|NVRM: GPU .*has fallen off|Unable to determine the device handle",
        *(Outcome.NODE_FAILURE, "node", "the GPU hardware failed"),
        "the node is left out for 24 hours; have it checked",
    ),
    _rule(
        "out_of_memory",
        r"^(torch\.)?(cuda\.)?OutOfMemoryError: |^RuntimeError: CUDA out of memory|CUDA error: out of memory"
        r"|^torch\.AcceleratorError: .*out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        *(Outcome.FATAL, "job", "the GPU has too little memory for this job"),
        "lower data.max_length or resources.micro_batch, or set training.gradient_checkpointing",
    ),
    _rule(
        "host_memory",
        r"^MemoryError|ArrayMemoryError: |^RuntimeError: .*DefaultCPUAllocator: (can't|not enough)",
        *(Outcome.FATAL, "job", "the machine has too little memory for this job"),
        "ask for more host memory, or fewer ranks per node",
    ),
    _rule(
        "storage",
        r"\[Errno (28|122|5)\]|[Nn]o space left on device|Disk quota exceeded|Input/output error \(os error 5\)",
        *(Outcome.CRASHED, "storage", "the storage is full or broken"),
        "free space or raise the quota where the run directory lies",
    ),
    _rule(
        "shared_memory",
        r"killed by signal: Bus error.*shared memory|unable to (write to|mmap|open) (file|shared memory).*shm",
        *(Outcome.CRASHED, "job", "/dev/shm is too small"),
        "give the container a larger /dev/shm (Kubernetes: an emptyDir in memory), or use fewer data workers",
    ),
    _rule(
        "port_in_use",
        r"EADDRINUSE|[Aa]ddress already in use",
        *(Outcome.CRASHED, "job", "a network port was taken by another process"),
    ),
    _rule(
        "connection",
        r"DistBackendError: .*(NCCL|Gloo)|ncclRemoteError|ncclSystemError|NCCL WARN .*(socket|NET/|connect)"
        r"|Watchdog caught collective operation timeout|gloo/transport/.*(closed|timed out|reset|Timed out|refused)"
        r"|^RuntimeError: .*Connection (closed|reset) by peer|DistNetworkError: |DistStoreError: ",
        *(Outcome.CRASHED, "suspect", "a connection between ranks broke"),
    ),
)
"""In the order in which they count: what explains the others comes first."""


def last_words(text: str) -> list[str]:
    """The lines of a log at which a failure speaks: known prefixes, and the last traceback's exception."""
    lines = [_RANK_PREFIX.sub("", line) if _TRACEBACK not in line else _TRACEBACK for line in text.splitlines()]
    prefixed = [line for line in text.splitlines() if _KNOWN_PREFIX.match(line)]
    return [*prefixed, *_last_exception(lines)]


def classify(line: str) -> Rule | None:
    """The first rule of the table that such a line fits."""
    return next((rule for rule in RULES if rule.pattern.search(line)), None)


def in_logs(logs: Iterable[Path], node: str, remedies: Mapping[str, str]) -> list[Evidence]:
    """Everything that the ends of these logs prove, what counts most first, each kind once."""
    found: dict[str, Evidence] = {}
    for line in (line for log in logs for line in last_words(tail(log))):
        rule = classify(line)
        if rule is not None and rule.kind not in found:
            remedy = remedies.get(rule.kind) or rule.remedy
            words = line.strip()[:_LINE_CHARACTERS]
            found[rule.kind] = Evidence(rule.kind, node, words, rule.blames, rule.outcome, rule.words, remedy)
    return [found[rule.kind] for rule in RULES if rule.kind in found]


def in_order(found: Iterable[Evidence]) -> list[Evidence]:
    """What explains the others first, also where several nodes have found something."""
    places = {kind: place for place, kind in enumerate([*_BEFORE_LOGS, *(rule.kind for rule in RULES)])}
    return sorted(found, key=lambda item: places.get(item.kind, len(places)))


def without_aftermath(found: list[Evidence], killed: bool) -> list[Evidence]:
    """Drops broken connections where something else explains them: when a rank dies, its peers lose theirs."""
    explained = killed or any(item.kind != "connection" for item in found)
    return [item for item in found if item.kind != "connection" or not explained]


def killed_for_memory(node: str, kills: int) -> Evidence:
    """The kernel's out-of-memory killer was seen at work during the attempt."""
    line = f"the kernel killed {count(kills, 'process', 'processes')} of this job's memory cgroup"
    words = "the machine, or the limit on this job, has too little host memory"
    remedy = "ask for more host memory, or fewer ranks per node"
    return Evidence("host_out_of_memory", node, line, "job", Outcome.FATAL, words, remedy)


def lost_node(node: str, words: str) -> Evidence:
    """A node whose agent fell silent: it, or its way to the storage, is gone."""
    return Evidence("lost_node", node, words, "suspect", Outcome.NODE_FAILURE)


def left_node(node: str, words: str) -> Evidence:
    """A node whose agent was taken away by whoever started it."""
    return Evidence("left_node", node, words, "scheduler", Outcome.NODE_FAILURE)


def tail(path: Path) -> str:
    """The end of a log, "" when it cannot be read."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, log.seek(0, 2) - _TAIL_BYTES))
            return log.read().decode(errors="replace")
    except OSError:
        return ""


def _last_exception(lines: list[str]) -> list[str]:
    """The line after the frames of the last traceback: `Class: message`."""
    starts = [number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if not starts:
        return []
    after = (line for line in lines[starts[-1] + 1 :] if line and not line.startswith(" "))
    return [line for line in [next(after, "")] if line]
