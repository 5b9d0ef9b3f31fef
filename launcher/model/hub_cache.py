"""Where the hub's cache of a planned run lies, by the variables that the run will have, and what is seen of it here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from launcher.model.files import dataset_is_cached, hub_cache, offline_switch, what_is_missing

SLURM, KUBERNETES = "slurm", "kubernetes"
PLACES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")


@dataclass(frozen=True, kw_only=True)
class RunCache:
    """The hub's cache of a run.

    Attributes:
        environment: Variables of the run, as far as they are known here.
        cache: Where the run finds it.
        here: The same folder as this machine sees it; None where it does not.
        outlives_pods: False where it lies in a pod alone, so that nothing can be in it.
    """

    environment: Mapping[str, str]
    cache: Path
    here: Path | None
    outlives_pods: bool = True

    @property
    def switch(self) -> str:
        """The variable that keeps the run from asking the hub; empty when it may."""
        return offline_switch(self.environment)

    def lacks(self, model: str, revision: str | None) -> str | None:
        """What it lacks of a model, in words: empty where that is whole, None where nobody here can tell."""
        if not self.outlives_pods:
            return f"the hub's cache {self.cache} lies on no volume of the site profile"
        return what_is_missing(model, revision, self.here) if self.here else None

    def lacks_data_set(self, name: str) -> bool:
        """Whether nothing of a data set is there, as far as that can be seen."""
        return not self.outlives_pods or (self.here is not None and not dataset_is_cached(name, self.environment))


def cache_of_run(launch: Mapping[str, Any]) -> RunCache:
    """The cache of a run.

    Args:
        launch: plan.json's.
    """
    if (site := launch.get(KUBERNETES)) is not None:
        return _in_pods(site)
    if (site := launch.get(SLURM)) is not None:
        return _in_jobs(site)
    cache = hub_cache(os.environ)
    return RunCache(environment=dict(os.environ), cache=cache, here=cache)


def _in_jobs(site: Mapping[str, Any]) -> RunCache:
    """Jobs start with an empty environment: the profile's variables and those that it forwards are all."""
    given, forwarded = site.get("environment") or {}, ("HOME", *(site.get("forward") or ()))
    environment = {name: os.environ[name] for name in forwarded if name in os.environ} | given
    cache = hub_cache(environment)
    # what a container or the site's own lines make of it is not seen from here; login nodes need not have what it names
    hidden = site.get("container") or any("HF_" in line for line in site.get("setup") or ())
    elsewhere = any(name in given for name in PLACES) and not cache.is_dir()
    return RunCache(environment=environment, cache=cache, here=None if hidden or elsewhere else cache)


def _in_pods(site: Mapping[str, Any]) -> RunCache:
    runs = {"path": "/runs", **(site.get("runs") or {})}
    environment = {"HF_HOME": f"{runs['path']}/.hub", **(site.get("environment") or {})}
    cache = hub_cache(environment)
    volumes = [one for one in (runs, *(site.get("volumes") or ())) if PurePosixPath(cache).is_relative_to(one["path"])]
    mounted = next((one for one in volumes if one.get("local")), None)
    here = Path(mounted["local"]) / PurePosixPath(cache).relative_to(mounted["path"]) if mounted else None
    return RunCache(environment=environment, cache=cache, here=here, outlives_pods=bool(volumes))
