"""What a site profile's file may say, a module for each scheduler, and the table of schedulers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.kubernetes.profile import Profile as KubernetesProfile
from cluster.profiles import SiteProfile
from cluster.slurm.profile import Profile as SlurmProfile
from launcher.siteschema import kubernetes, slurm
from trainer.config import Section


@dataclass(frozen=True)
class Kind:
    """How the profiles of one scheduler are read: the file's sections, by their keys, and what they become."""

    sections: Mapping[str, type[Section]]
    make: Callable[[str, Mapping[str, Any]], SiteProfile]


KINDS: dict[str, Kind] = {
    "slurm": Kind(slurm.SECTIONS, SlurmProfile.from_dict),
    "kubernetes": Kind(kubernetes.SECTIONS, KubernetesProfile.from_dict),
}
DEFAULT = "slurm"
"""For profiles that do not say: those that were written before there were two."""
