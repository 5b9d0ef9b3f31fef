"""What accounting allows a user: accounts and QOS, out of sacctmgr's lists. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.slurm.scheduler.facts import listed, parse_duration, parse_gpus

ASSOCIATION_FIELDS = ("Account", "Partition", "QOS", "DefaultQOS", "MaxWall")
QOS_FIELDS = ("Name", "GraceTime", "Preempt", "PreemptMode", "MaxWall", "MaxTRES", "MaxTRESPU", "GrpTRES")


@dataclass(frozen=True)
class Association:
    """A user's right to use an account, with the QOS that may be used there. An empty partition is any."""

    account: str
    partition: str
    qos: tuple[str, ...]
    default_qos: str
    max_wall_seconds: float | None


@dataclass(frozen=True)
class Qos:
    """One QOS. None is no limit."""

    name: str
    grace_seconds: float
    preempts: tuple[str, ...]
    preempt_mode: str
    """Upper case; empty: the cluster's."""
    max_wall_seconds: float | None
    max_gpus_per_job: int | None
    max_gpus_per_user: int | None
    max_gpus: int | None
    """Of all users together."""


@dataclass(frozen=True)
class Accounts:
    """What one user may use."""

    default_account: str
    associations: Sequence[Association]
    qos: Sequence[Qos]

    def names(self, partition: str) -> list[str]:
        """The accounts that may be used in a partition."""
        return list(dict.fromkeys(one.account for one in self.associations if one.partition in ("", partition)))

    def association(self, account: str, partition: str) -> Association | None:
        """What counts for this account there; the default account where none is named."""
        wanted = account or self.default_account
        fitting = [one for one in self.associations if one.account == wanted and one.partition in ("", partition)]
        return max(fitting, key=lambda one: bool(one.partition), default=None)

    def qos_named(self, name: str) -> Qos | None:
        """One QOS."""
        return next((one for one in self.qos if one.name == name), None)

    def gives_way(self, qos: Qos) -> bool:
        """Whether jobs of another QOS may take the nodes away."""
        return any(qos.name in other.preempts for other in self.qos)


def parse_associations(text: str) -> list[Association]:
    """`sacctmgr --parsable2 show association` with ASSOCIATION_FIELDS."""
    return [
        Association(account, partition, listed(qos), default, parse_duration(wall))
        for account, partition, qos, default, wall in _rows(text, len(ASSOCIATION_FIELDS))
    ]


def parse_qos(text: str) -> list[Qos]:
    """`sacctmgr --parsable2 show qos` with QOS_FIELDS."""
    return [
        Qos(
            name=name,
            grace_seconds=parse_duration(grace) or 0.0,
            preempts=listed(preempts),
            preempt_mode="" if mode in ("", "cluster") else mode.upper(),
            max_wall_seconds=parse_duration(wall),
            max_gpus_per_job=_gpus(per_job),
            max_gpus_per_user=_gpus(per_user),
            max_gpus=_gpus(of_all),
        )
        for name, grace, preempts, mode, wall, per_job, per_user, of_all in _rows(text, len(QOS_FIELDS))
    ]


def _gpus(text: str) -> int | None:
    """A limit on GPUs; of those for each type the sum, beside one for all of them that one."""
    found = parse_gpus(text)
    return found.get("", sum(found.values())) if found else None


def _rows(text: str, cells: int) -> list[list[str]]:
    rows = [line.split("|") for line in text.splitlines()]
    return [row for row in rows if len(row) == cells]
