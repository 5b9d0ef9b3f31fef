"""What the backend may do in its namespace, and does: the rules of helm/rbac.yaml. A test holds them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Permission:
    """One verb on one resource."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        whole = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {whole}{f'.{self.group}' if self.group else ''}"


_MAKE = ("get", "list", "watch", "create", "update", "patch", "delete")
"""Helm's, on each kind of object in the chart."""
RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", ("configmaps", "services", "serviceaccounts", "persistentvolumeclaims", "secrets"), _MAKE),
    ("batch", ("jobs",), _MAKE),
    ("networking.k8s.io", ("networkpolicies",), _MAKE),
    ("", ("pods",), ("get", "list", "watch")),
    ("", ("pods/log",), ("get",)),
    ("", ("pods/exec",), ("create", "get")),
    ("", ("events",), ("list",)),
)
"""Group, resources and verbs without which nothing works. Secrets: Helm keeps its releases in them."""
MORE: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("", ("pods",), ("create", "delete")),
    ("", ("resourcequotas",), ("list",)),
    ("rbac.authorization.k8s.io", ("roles", "rolebindings"), _MAKE),
    ("apps", ("deployments",), _MAKE),
    ("jobset.x-k8s.io", ("jobsets",), _MAKE),
    ("kueue.x-k8s.io", ("workloads", "localqueues"), ("get", "list")),
)
"""What is better with them: pods that look into ended runs, quota in words, data tokenised before the GPUs are taken,
TensorBoard, JobSet, Kueue."""


def _permissions(rules: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]) -> tuple[Permission, ...]:
    found = []
    for group, resources, verbs in rules:
        for resource, _, part in (one.partition("/") for one in resources):
            found += [Permission(verb, resource, group, part) for verb in verbs]
    return tuple(found)


NEEDED = _permissions(RULES)
OPTIONAL = _permissions(MORE)
