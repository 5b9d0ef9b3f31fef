"""From what SLURM tells a task to what an agent wants to know: which nodes, which of them, where to meet.

Everything is read from the task's environment: containers have no `scontrol`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from cluster.agent.process.node import GENERATION, HEAD, NODE_RANK, NODES, PORT
from cluster.errors import ClusterError

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST_PORT = 20000
_SPARE_PORTS = 400
"""Left above the first port for other attempts of the job, and for neighbours that have taken it."""
_PART = re.compile(r"\[([^\]]*)\]")
_WHOLE = re.compile(r"[^\[\],]*(?:\[[0-9,-]+\][^\[\],]*)*")


def expand_node_list(text: str) -> list[str]:
    """The names in SLURM's short form: `n[1-3,07],login` are n1, n2, n3, n07 and login, in that order."""
    names = [name for part in _split(text) for name in _expand(part)]
    if not names or any(not name for name in names):
        raise ClusterError(f"SLURM's node list cannot be understood: {text!r}")
    return names


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What the agent of this task is told, from SLURM's variables."""
    needed = ("SLURM_JOB_ID", "SLURM_NODEID")
    if missing := [name for name in needed if not environment.get(name)]:
        raise ClusterError(f"{', '.join(missing)} not set: this is no SLURM task", "start it with srun")
    listed = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    names, job = expand_node_list(listed), environment["SLURM_JOB_ID"]
    return {
        NODES: ",".join(names),
        NODE_RANK: environment["SLURM_NODEID"],
        HEAD: head_address(names[0], environment),
        PORT: str(first_port(int(job))),
        GENERATION: generation(environment),
    }


def generation(environment: Mapping[str, str]) -> str:
    """Identity of one start of the job: a requeued job keeps its number, so its restarts are part of it."""
    return f"{environment['SLURM_JOB_ID']}.{environment.get('SLURM_RESTART_COUNT') or '0'}"


def head_address(name: str, environment: Mapping[str, str]) -> str:
    """The first node's name where it resolves; else the address of the host that srun runs on, which is that node."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return environment.get("SLURM_LAUNCH_NODE_IPADDR") or name
    return name


def first_port(job: int) -> int:
    """A port of the job's own, below those that the kernel gives to outgoing connections."""
    try:
        lowest = int(_EPHEMERAL.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        lowest = 32768
    # neighbouring job numbers share nodes most often: 7 keeps them apart, and 7 and the range have no common divisor
    width = max(1, lowest - _SPARE_PORTS - _FIRST_PORT) // 7 * 7 - 1
    return _FIRST_PORT + (job * 7) % max(1, width)


def _split(text: str) -> Iterator[str]:
    """Parts at commas that are not within brackets."""
    position = 0
    while position < len(text):
        part = _WHOLE.match(text, position)
        assert part is not None  # the pattern matches the empty text, too
        yield part[0]
        position = part.end()
        if position < len(text) and text[position] != ",":
            raise ClusterError(f"SLURM's node list cannot be understood: {text!r}")
        position += 1


def _expand(part: str) -> Iterator[str]:
    """`rack[1-2]n[3,4]` stands for four names."""
    pieces = _PART.split(part)
    choices = [list(_numbers(piece)) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    return ("".join(choice) for choice in product(*choices))


def _numbers(ranges: str) -> Iterator[str]:
    for item in ranges.split(","):
        low, _, high = item.partition("-")
        if not low.isdecimal() or not (high or low).isdecimal():
            raise ClusterError(f"SLURM's node list cannot be understood: [{ranges}]")
        for number in range(int(low), int(high or low) + 1):
            yield f"{number:0{len(low)}}"
