"""Locate the hub cache of a planned run from the environment variables of the run, and what of it is visible here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.model.files import dataset_is_cached, describe_missing_files, hub_cache, offline_switch

SLURM, KUBERNETES = "slurm", "kubernetes"
CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")


@dataclass(frozen=True, kw_only=True)
class RunCache:
    """The hub cache of a run.

    Attributes:
        environment: Environment variables of the run, as far as they are known here.
        cache: Its path on the machines of the run.
        here: Its path on this machine; None if this machine does not see it.
        outlives_pods: False if it is not on a volume: then it is empty at the start of every pod.
    """

    environment: Mapping[str, str]
    cache: Path
    here: Path | None
    outlives_pods: bool = True

    @property
    def offline_switch(self) -> str:
        """The variable that puts the run into offline mode; empty if none does."""
        return offline_switch(self.environment)

    def describe_missing_files(self, model: str, revision: str | None) -> str | None:
        """Return a sentence about what the cache lacks of a model.

        Returns:
            The sentence; empty if the model is complete; None if the cache is not visible from this machine.
        """
        if not self.outlives_pods:
            return f"the hub's cache {self.cache} lies on no volume of the site profile"
        return describe_missing_files(model, revision, self.here) if self.here else None

    def lacks_dataset(self, name: str) -> bool:
        """Return whether a dataset is known to be missing; False if the cache is not visible from this machine."""
        return not self.outlives_pods or (self.here is not None and not dataset_is_cached(name, self.environment))


def cache_of_run(launch: Mapping[str, Any]) -> RunCache:
    """Return the hub cache of a run.

    Args:
        launch: `launch` of plan.json.
    """
    if (site := launch.get(KUBERNETES)) is not None:
        return _in_pods(site)
    if (site := launch.get(SLURM)) is not None:
        return _in_jobs(site)
    cache = hub_cache(os.environ)
    return RunCache(environment=dict(os.environ), cache=cache, here=cache)


def _in_jobs(site: Mapping[str, Any]) -> RunCache:
    """Return the cache of SLURM jobs, whose environment has only the profile's variables and those that it forwards."""
    given, forwarded = site.get("environment") or {}, ("HOME", *(site.get("forward") or ()))
    environment = {name: os.environ[name] for name in forwarded if name in os.environ} | given
    cache = hub_cache(environment)
    # a container or the profile's `setup` lines may move the cache, and a folder that the profile names need not be
    # mounted on login nodes
    may_be_moved = site.get("container") or any("HF_" in line for line in site.get("setup") or ())
    not_mounted = any(name in given for name in CACHE_VARIABLES) and not cache.is_dir()
    return RunCache(environment=environment, cache=cache, here=None if may_be_moved or not_mounted else cache)


def _in_pods(site: Mapping[str, Any]) -> RunCache:
    """Return the cache of Kubernetes pods, which survives a pod only on one of the profile's volumes."""
    runs = {"path": "/runs", **(site.get("runs") or {})}
    environment = {"HF_HOME": f"{runs['path']}/.hub", **(site.get("environment") or {})}
    cache = hub_cache(environment)
    all_volumes = (runs, *(site.get("volumes") or ()))
    volumes = [volume for volume in all_volumes if PurePosixPath(cache).is_relative_to(volume["path"])]
    mounted = next((volume for volume in volumes if volume.get("local")), None)
    here = Path(mounted["local"]) / PurePosixPath(cache).relative_to(mounted["path"]) if mounted else None
    return RunCache(environment=environment, cache=cache, here=here, outlives_pods=bool(volumes))
