"""What site profiles of every scheduler share: how settings are declared, read out of plain values, and checked. Pure.

A profile is a dataclass whose every setting is written once, with its type, default and description. The launcher makes
the model of the profile's file out of it (`launcher.site.file_model`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from cluster.errors import ClusterError
from rundir.quantities import WALLTIME_PATTERN

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET = re.compile(r"(?:^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|KEY|APIKEY|CREDENTIALS?)(?:$|_)", re.IGNORECASE)
RESERVED = re.compile(r"TUNEYARD_.*|MASTER_(ADDR|PORT)|(LOCAL_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|PYTHONSAFEPATH")
"""Variables that the run itself sets."""

Key = tuple[str | int, ...]
Made = TypeVar("Made", bound="SiteProfile")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a value in a profile's file must be beyond its type, as pydantic's `Field` has it."""

    gt: int | None = None
    ge: int | None = None
    min_length: int | None = None
    pattern: str | None = None


Text = Annotated[str, Rule(min_length=1)]
"""Text that says something; a profile's object has "" where the file leaves it out."""
Walltime = Annotated[str, Rule(pattern=WALLTIME_PATTERN)]
PositiveInt = Annotated[int, Rule(gt=0)]
NotNegativeInt = Annotated[int, Rule(ge=0)]


def setting(description: str, default: Any = None, *, factory: Any = None, required: bool = False) -> Any:
    """One setting of a profile, as a dataclass's field.

    Args:
        description: What it says, for people who write the file.
        default: What it is where the file leaves it out.
        factory: Makes the default, where that is a list, a mapping or a section.
        required: The file must say it.
    """
    metadata = {"description": description, "required": required}
    return field(metadata=metadata, **({"default_factory": factory} if factory else {"default": default}))


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


def profile_from(kind: type[Made], name: str, data: Mapping[str, Any]) -> Made:
    """A profile of this kind out of plain values; what is None in them counts as left out.

    Raises:
        ProfileError: with every wrong value, every setting that there is none of, and every one that is missing.
    """
    findings: list[Finding] = []
    made: Made = _section(kind, (), data, findings, name=name)
    findings += made.findings()
    if findings:
        raise ProfileError(name, findings)
    return made


def section_in(hint: Any) -> type[Any] | None:
    """The dataclass that a setting's type is, or holds: `Sequence[Volume]` holds a Volume."""
    found = (hint if isinstance(hint, type) and is_dataclass(hint) else None, *map(section_in, get_args(hint)))
    return next((one for one in found if one is not None), None)


def _section(kind: type[Any], key: Key, data: Mapping[str, Any], findings: list[Finding], **more: str) -> Any:
    """One section as an object; what is wrong with its values' names and choices is added to the findings."""
    hints, settings = get_type_hints(kind), {one.name: one for one in fields(kind) if one.metadata}
    given = {name: value for name, value in data.items() if value is not None}
    findings += [Finding((*key, name), "unknown setting") for name in given if name not in settings]
    needed = [name for name, one in settings.items() if one.metadata["required"] and name not in given]
    findings += [Finding((*key, name), "is missing") for name in needed]
    values = {name: _value(hints[name], (*key, name), given[name], findings) for name in settings if name in given}
    return kind(**more, **values)


def _value(hint: Any, key: Key, value: Any, findings: list[Finding]) -> Any:
    """A plain value, or, where the type is a section, a list of sections or a mapping to them, these as objects."""
    if get_origin(hint) is Literal:
        findings += one_of(key, value, get_args(hint))
    section = section_in(hint)
    if section is None:
        return value
    if get_origin(hint) is Sequence:
        return [_section(section, (*key, number), one, findings) for number, one in enumerate(value)]
    if get_origin(hint) is Mapping:
        return {name: _section(section, (*key, name), one, findings) for name, one in value.items()}
    return _section(section, key, value, findings)


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
