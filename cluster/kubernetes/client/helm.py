"""Helm's command line, called with a list of arguments; values go through standard input, never through arguments."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError
from cluster.submitting.shipped import shipped_folder

OLDEST = (4, 0)
_INSTALL = "install Helm 4: https://helm.sh/docs/intro/install, or set `helm` in the site profile to its path"
_SECONDS = 120.0
_NOISE = re.compile(r"^(level=|WARNING: Kubernetes configuration file|I\d{4} )")


class HelmError(ClusterError):
    """Helm refused or failed; `words` are its own."""

    def __init__(self, message: str, remedy: str = "", *, words: str = "") -> None:
        super().__init__(message, remedy)
        self.words = words or message


def chart_folder(given: str = "") -> Path:
    """The chart: the profile's, or the one that was shipped.

    Raises:
        ClusterError: there is none.
    """
    place = Path(given) if given else shipped_folder("helm/tuneyard")
    if not (place / "Chart.yaml").is_file():
        raise ClusterError(f"no chart in {place}", "correct `chart` in the site profile")
    return place


@dataclass(frozen=True)
class Helm:
    """Helm in one namespace of one cluster."""

    program: str = "helm"
    context: str = ""
    namespace: str = ""
    chart: str = ""

    def version(self) -> tuple[int, ...]:
        """Helm's version.

        Raises:
            HelmError: it is not here, or too old.
        """
        words = self._run(["version", "--short"], "").strip()
        numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", words)
        found = tuple(int(part) for part in numbers.groups()) if numbers else ()
        if found < OLDEST:
            raise HelmError(f"{self.program} is {words or 'of an unknown version'}, and 4 is needed", _INSTALL)
        return found

    def template(self, release: str, values: str) -> str:
        """The manifests, rendered here: no cluster is asked."""
        return self._run(["template", release, self._chart(), *self._place(), "--skip-tests", "--values", "-"], values)

    def install(self, release: str, values: str) -> None:
        """Makes the release; Helm takes back what it made when it fails."""
        self._run(["install", release, self._chart(), *self._place(), "--values", "-"], values)

    def uninstall(self, release: str) -> bool:
        """Removes the release and its objects; gives whether there was one."""
        try:
            self._run(["uninstall", release, *self._place(), "--cascade", "background"], "")
        except HelmError as error:
            if "not found" in error.words:
                return False
            raise
        return True

    def status(self, release: str) -> str:
        """`deployed`, `failed`, ...; empty when there is no such release."""
        try:
            found: dict[str, Any] = json.loads(self._run(["status", release, *self._place(), "--output", "json"], ""))
        except HelmError as error:
            if "not found" in error.words:
                return ""
            raise
        return str((found.get("info") or {}).get("status", ""))

    def _chart(self) -> str:
        return str(chart_folder(self.chart))

    def _place(self) -> list[str]:
        context = ["--kube-context", self.context] if self.context else []
        return [*context, *(["--namespace", self.namespace] if self.namespace else [])]

    def _run(self, arguments: Sequence[str], given: str) -> str:
        if shutil.which(self.program) is None:
            raise HelmError(f"Helm is not here: {self.program}: command not found", _INSTALL)
        line = [self.program, *arguments]
        try:
            done = subprocess.run(
                line, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace"
            )
        except subprocess.TimeoutExpired:
            words = f"helm {arguments[0]} did not end within {_SECONDS:.0f} s"
            raise HelmError(words, "the cluster may be slow or out of reach: try again") from None
        if done.returncode == 0:
            return done.stdout
        words = _words(done.stderr)
        raise HelmError(f"helm {arguments[0]}: {words}", _remedy(words), words=words)


def _words(stderr: str) -> str:
    lines = [line.removeprefix("Error: ").strip() for line in stderr.splitlines() if not _NOISE.match(line)]
    return "\n".join(line for line in lines if line) or "it failed without a word"


_REMEDIES = {
    r"values don't meet the specifications of the schema": "correct the site profile: the lines name the values",
    r"cannot re-use a name|still in use": "a release of this name is there: see `helm list`, and cancel it",
    r"is forbidden": "ask for the Role in docs/kubernetes.md",
    r"cluster unreachable|connection refused|no such host": "look at `kubectl cluster-info`, and at `context`",
}


def _remedy(words: str) -> str:
    return next((remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, words, re.IGNORECASE)), "")
