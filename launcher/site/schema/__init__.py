"""What a site profile's file may say, a module for each scheduler, imported when one of its profiles is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from cluster.profiles import SiteProfile
from trainer.config import Section

KINDS = ("kubernetes", "slurm")
"""Schedulers: each has `launcher.site.schema.NAME` with the file's SECTIONS, and `cluster.NAME.profile`."""
DEFAULT = "slurm"
"""For profiles that do not say: those that were written before there were two."""


@dataclass(frozen=True)
class Kind:
    """How the profiles of one scheduler are read: the file's sections, by their keys, and what they become."""

    sections: Mapping[str, type[Section]]
    make: Callable[[str, Mapping[str, Any]], SiteProfile]


def kind_of(name: str) -> Kind:
    """The kind of one of KINDS."""
    schema, profile = import_module(f"launcher.site.schema.{name}"), import_module(f"cluster.{name}.profile")
    return Kind(schema.SECTIONS, profile.Profile.from_dict)
