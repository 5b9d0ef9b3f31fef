"""Names of a run's objects, made once when it is submitted, within what Kubernetes allows. Pure."""

from __future__ import annotations

import re

LONGEST = 39
"""Of a release: JobSet adds the rank group, the pod's number and five random characters, and 63 is the limit."""
COMPONENT_LABEL = "app.kubernetes.io/component"
INSTANCE_LABEL = "app.kubernetes.io/instance"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
TRAINER = "trainer"
"""The container that trains, and the component that the run's own workload and pods are."""
PREPARE = "prepare"
"""The container that tokenises in a pod without GPUs, and the component that this pod and its Job are."""
PLACE = "place"
_ID = re.compile(r"-\d{8}-\d{6}-[a-z2-7]+$")


def release_name(run_name: str) -> str:
    """The release, and the run's name in the pods: the run's name, shortened in the middle where it is too long.

    The id at its end stays whole: it is what keeps runs of one job apart.
    """
    found = _ID.search(run_name)
    suffix = found[0] if found else ""
    plain = run_name[: len(run_name) - len(suffix)]
    stem = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "run"
    stem = stem if stem[0].isalpha() else f"run-{stem}"
    return stem[: LONGEST - len(suffix)].rstrip("-") + suffix
