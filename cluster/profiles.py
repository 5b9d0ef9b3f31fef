"""What site profiles of every scheduler share: findings, and the checks of single values. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from cluster.contract import ClusterError

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"(?:^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|KEY|APIKEY|CREDENTIALS?)(?:$|_)", re.IGNORECASE)
RESERVED = re.compile(r"TUNEYARD_.*|MASTER_(ADDR|PORT)|(LOCAL_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|PYTHONSAFEPATH")
"""Variables that the run itself sets."""

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a profile, and where."""

    key: Key
    message: str
    got: str = ""
    remedy: str = ""


class ProfileError(ClusterError):
    """A profile that cannot be used; `findings` holds all that is wrong with it."""

    def __init__(self, name: str, findings: Sequence[Finding]) -> None:
        lines = [f"{'.'.join(map(str, one.key))}: {one.message}" for one in findings]
        super().__init__(f"profile {name}: {'; '.join(lines)}", "correct the profile")
        self.findings = tuple(findings)


class Preemption(Protocol):
    """What the site does before it takes machines away."""

    @property
    def grace_seconds(self) -> int | None: ...


class SiteProfile(Protocol):
    """What the launcher asks of a profile, whatever its scheduler is."""

    @property
    def name(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def gpu_types(self) -> Mapping[str, Any]: ...

    @property
    def gpus_per_node(self) -> int | None: ...

    @property
    def cpus_per_gpu(self) -> int | None: ...

    @property
    def max_walltime(self) -> str: ...

    @property
    def preemption(self) -> Preemption: ...

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong with the values."""

    def run_folder(self) -> str:
        """Where runs go, as seen from the submitting machine; empty for the folder that the user names."""

    def host_bytes(self, num_ranks: int) -> int | None:
        """Main memory of a node that holds so many ranks; None where the profile does not say."""

    def site(self, gpu: str = "", version: Sequence[int] = ()) -> dict[str, Any]:
        """What the backend is told, as a plan keeps it."""

    def holds(self, path: str) -> bool:
        """Whether the run sees this path although this machine need not."""

    def there(self, path: str) -> str | None:
        """A path of the submitting machine as the run sees it; None when the run cannot see it."""


def settings(kind: type[Any], name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile of this kind says, without what it leaves empty.

    Raises:
        ProfileError: with every setting that there is none of.
    """
    known = {one.name for one in fields(kind)} - {"name"}
    if unknown := [Finding((key,), "unknown setting") for key in data if key not in known]:
        raise ProfileError(name, unknown)
    return given(data)


def given(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """A section without what is left empty in it."""
    return {key: value for key, value in (values or {}).items() if value is not None}


def require_sound(profile: SiteProfile) -> None:
    """Refuses wrong values.

    Raises:
        ProfileError: with all of them.
    """
    if findings := list(profile.findings()):
        raise ProfileError(profile.name, findings)


def text(key: Key, value: str) -> Iterator[Finding]:
    """Refuses line breaks and control characters."""
    if not value.isprintable():
        yield Finding(key, "has a line break or a control character in it", repr(value), "take it out")


def like(key: Key, value: str, pattern: re.Pattern[str], what: str) -> Iterator[Finding]:
    """Refuses a value that is there and does not look as it must."""
    if value and not pattern.fullmatch(value):
        yield Finding(key, f"must be {what}", repr(value) if not value.isprintable() else value)


def one_of(key: Key, value: str, choices: Sequence[str]) -> Iterator[Finding]:
    """Refuses what is none of the choices."""
    if value not in choices:
        yield Finding(key, f"must be one of {', '.join(filter(None, choices))}", value)


def variable(key: Key, name: str) -> Iterator[Finding]:
    """Refuses what is no variable's name, and what the run itself sets."""
    yield from like(key, name, NAME, "a variable's name: letters, digits and underscores")
    if RESERVED.fullmatch(name):
        yield Finding(key, "is set by the run itself", name, "take it out")


def variables(section: str, values: Mapping[str, str], remedy: str) -> Iterator[Finding]:
    """Refuses, in a section of variables, what cannot be one, and secrets; `remedy` says where those go."""
    for name, value in values.items():
        yield from variable((section, name), name)
        yield from text((section, name), value)
        if SECRET.search(name):
            yield Finding((section, name), "looks like a secret", remedy=remedy)
