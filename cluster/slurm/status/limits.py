"""Which limit holds a job back, and how much of it is in use, out of what the controller knows of accounts and QOS.

Pure functions. The text is that of `scontrol show assoc_mgr flags=assoc,qos`, where `8(3)` is a limit of 8 of which 3
are in use, and `N(3)` is no limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_REASON = re.compile(r"(assoc|qos)(grp|max|min)?(.*)")
_PER = {"user": "PU", "account": "PA", "acct": "PA", "job": "PJ", "node": "PN"}
_COUNTED = {"submit": "SubmitJobs", "job": "Jobs", "wall": "Wall"}
_TRES = {"cpu": "cpu", "node": "node", "mem": "mem", "gres": "gres/gpu", "billing": "billing", "license": "license/"}
_AMOUNT = re.compile(r"([\w.]+)(?:\(([\d.]+)\))?")


@dataclass(frozen=True)
class Reason:
    """A reason as AssocGrpGRES or QOSMaxJobsPerUserLimit, taken apart. All in small letters."""

    whose: str
    """`assoc` or `qos`."""
    kind: str
    """`grp`: of all together; `max`, `min`: of one."""
    per: str
    """`user`, `job`, `node`, `account`, or nothing."""
    what: str
    """The rest: `gres`, `cpuminutes`, `jobs`, ..."""

    @property
    def setting(self) -> str:
        """What sacctmgr and scontrol call this limit: GrpTRES, MaxTRESPU, MaxWallPJ."""
        prefix = "Grp" if self.kind == "grp" else "Max"
        counted = next((name for word, name in _COUNTED.items() if word in self.what), "")
        run = "Run" if "run" in self.what else ""
        body = counted or ("TRES" + (f"{run}Mins" if "min" in self.what else ""))
        suffix = "" if self.kind == "grp" else _PER.get(self.per, "PJ" if body in ("Wall", "TRESMins") else "")
        return prefix + body + suffix

    @property
    def resource(self) -> str:
        """What is counted, where the limit has a number for each resource: `gres/gpu`."""
        return next((name for word, name in _TRES.items() if word in self.what), "")


@dataclass(frozen=True)
class Limit:
    """A limit in force. Both numbers as SLURM writes them: memory in MB, times in minutes."""

    owner: str
    most: str
    used: str


def reason_code(reason: str) -> str:
    """A reason in small letters only, without what follows a comma or a bracket: `reqnodenotavail`."""
    code = re.sub(r"[^a-z0-9]", "", re.split(r"[,(]", reason)[0].lower())
    return "" if code in ("none", "null") else code


def reason_of(code: str) -> Reason | None:
    """A reason code of small letters only as a limit of accounting; None when it is none."""
    found = _REASON.fullmatch(code)
    if found is None:
        return None
    rest = found[3].removesuffix("limit")
    per = re.search(r"per(user|job|node|account|acct)", rest)
    what = rest.replace(per[0], "") if per else rest
    return Reason(found[1], found[2] or "", per[1] if per else "", what)


def limit_in_force(text: str, reason: Reason, account: str, qos: str, user_id: str) -> Limit | None:
    """The first limit of this kind that an account or QOS has set, with what is in use; None when none is seen.

    `user_id` is a number. A limit on each user is the same for all, so what is in use is that user's.
    """
    wanted = f"QOS {qos}" if reason.whose == "qos" else f"account {account}"
    mine = ("", user_id if reason.per == "user" else account)
    for owner, section, setting, value in _settings(text):
        counts = (owner, setting) == (wanted, reason.setting) and section in mine
        if counts and (amount := _amount(value, reason.resource)):
            return Limit(owner, *amount)
    return None


def _amount(value: str, resource: str) -> tuple[str, str] | None:
    """Limit and what is in use of `cpu=N(4),gres/gpu=8(8)`, `2(1)` or `5`; None for no limit."""
    if "=" in value:
        pairs = dict(part.split("=", 1) for part in value.split(",") if "=" in part)
        value = next((amount for name, amount in pairs.items() if resource and name.startswith(resource)), "")
    found = _AMOUNT.fullmatch(value)
    return (found[1], found[2] or "") if found and found[1] != "N" else None


def _settings(text: str) -> Iterator[tuple[str, str, str, str]]:
    """Owner (`account X`, `QOS Y`), section (a user's number, an account), setting and value, in the order of lines."""
    owner = section = ""
    for line in text.splitlines():
        if heading := re.match(r"QOS=([^(]*)|ClusterName=\S* Account=(\S*)", line):
            owner, section = (f"account {heading[2]}" if heading[2] else f"QOS {heading[1]}"), ""
        elif re.match(r" {6}\S+$", line):
            section = line.strip().partition("(")[0]
        else:
            for setting, value in re.findall(r"(\w+)=(\S*)", line):
                yield owner, section, setting, value
