"""What can be chosen about a testbed, and its plan of names, addresses and users."""

from __future__ import annotations

import hashlib
import json
import secrets
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICES = "10.96.0.0/16"
CONTROL = "ctl"
PEOPLE = ("alice", "bob")  # users without any right, until a RoleBinding gives them one
REGISTRY = "tuneyard.test"
TRAINER_IMAGE = f"{REGISTRY}/trainer:1"


@dataclass(frozen=True)
class Settings:
    """What can be chosen about a testbed."""

    nodes: int = 2
    gpus_per_node: int = 8

    @property
    def node_names(self) -> list[str]:
        """n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]


class Users:
    """Who the API server knows, by tokens in a file, and the kubeconfigs that hold them."""

    def __init__(self, directory: Path, server: str) -> None:
        self.directory, self.server = directory, server
        self._secret = directory / "secret"

    def write(self, settings: Settings) -> None:
        """Makes a fresh secret, and the API server's file of tokens."""
        self._secret.write_text(secrets.token_hex(16))
        groups = {"admin": "system:masters", "coredns": "system:masters"}
        groups |= {f"system:{name}": "" for name in ("kube-controller-manager", "kube-scheduler", "kube-proxy")}
        groups |= {f"system:node:{name}": "system:nodes" for name in settings.node_names}
        groups |= dict.fromkeys(PEOPLE, "")
        lines = [f'{self.token(user)},{user},{user},"{group}"' for user, group in groups.items()]
        self.tokens.write_text("\n".join(lines) + "\n")
        self.tokens.chmod(0o600)

    @property
    def tokens(self) -> Path:
        """The API server's file of tokens."""
        return self.directory / "tokens.csv"

    def token(self, user: str) -> str:
        """The user's token."""
        return hashlib.sha256(f"{self._secret.read_text()} {user}".encode()).hexdigest()

    def kubeconfig(self, user: str, token: str | None = None) -> Path:
        """A kubeconfig for the user; with another token than the user's own for a service account."""
        path = self.directory / f"{user.replace(':', '-')}.kubeconfig"
        certificate = self.directory / "certificates" / "apiserver.crt"
        path.write_text(
            json.dumps(_kubeconfig(self.server, user, token or self.token(user), certificate.read_bytes()), indent=1)
        )
        path.chmod(0o600)
        return path


def _kubeconfig(server: str, user: str, token: str, certificate: bytes) -> dict[str, Any]:
    cluster = {"server": server, "certificate-authority-data": b64encode(certificate).decode()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        "current-context": "testbed",
    }
