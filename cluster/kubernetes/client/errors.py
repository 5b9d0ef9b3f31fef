"""What the API says when it refuses or does not answer: what, where, and what to do. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from cluster.errors import ClusterError

ROLE = "ask for the Role in docs/kubernetes.md (helm/rbac.yaml)"
_CONFLICT, _GONE, _TOO_MANY = 409, 410, 429


class KubernetesError(ClusterError):
    """The API refused or did not answer. `kind` is one of the kinds below, `words` are the API's own."""

    def __init__(self, message: str, remedy: str = "", *, kind: str = "other", words: str = "") -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.words = words or message


def refusal(what: str, status: int, body: str) -> KubernetesError:
    """The error for an answer that is none: `what` was asked, and how the API answered."""
    words = _words(body) or f"status {status}"
    for kind, (codes, pattern, remedy) in KINDS.items():
        if status in codes and re.search(pattern, words):
            return KubernetesError(f"{what}: {_told(kind, words)}", remedy, kind=kind, words=words)
    return KubernetesError(f"{what}: {words}", "the API's own words say why", words=words)


def unreachable(what: str, where: str, words: str) -> KubernetesError:
    """The error for an API server that does not answer at all."""
    remedy = "it may be restarting: try again; `kubectl cluster-info` tells whether it is up, `kubectl config` where"
    message = f"{what}: the API server{f' of {where}' if where else ''} does not answer: {_shortened(words)}"
    return KubernetesError(message, remedy, kind="unreachable", words=words)


KINDS: dict[str, tuple[tuple[int, ...], str, str]] = {
    "unauthorised": ((401,), "", "log in to the cluster again, or correct `context` in the site profile"),
    "quota": ((403,), "exceeded quota", "wait until other objects are gone, ask for less, or for a larger quota"),
    "pod_security": (
        (403,),
        "violates PodSecurity",
        "the namespace admits only restricted pods: take the setting that it names out of the site profile",
    ),
    "forbidden": ((403,), r"cannot \w+ resource|[Ff]orbidden$|status 403", ROLE),
    "refused": ((403,), "", "correct the site profile: the cluster's own rules refuse it"),
    "not_found": ((404,), "", "it is not there (any more), or the namespace is another one"),
    "exists": ((_CONFLICT,), "already exists", "a run of this name is there already"),
    "gone": ((_GONE,), "", "ask again"),
    "busy": ((_TOO_MANY, 500, 502, 503, 504), "", "the API server is busy or restarting: try again"),
    "invalid": ((400, 422), "", "correct the site profile: the API names the field"),
}
"""Each kind with how it is recognised and what to do. The first one that fits counts."""


def _told(kind: str, words: str) -> str:
    """A refusal for want of rights names what would have been needed."""
    needed = re.search(
        r'cannot (\w+) resource "([\w/]+)" in API group "([\w.-]*)"(?: in the namespace "([\w.-]+)")?', words
    )
    if kind != "forbidden" or needed is None:
        return _shortened(words)
    verb, resource, group, namespace = needed.groups()
    where = f" in namespace {namespace}" if namespace else ", which belongs to no namespace"
    return f"you may not {verb} {resource}{f'.{group}' if group else ''}{where}"


def _words(body: str) -> str:
    """The message of a Status object, or the text itself."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        return _shortened(body.strip())
    return str(found.get("message") or "") if isinstance(found, Mapping) else str(found)


def _shortened(words: str) -> str:
    flat = " ".join(words.split())
    return flat if len(flat) <= 600 else flat[:597] + "..."
