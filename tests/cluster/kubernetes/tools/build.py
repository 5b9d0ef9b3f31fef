"""`make kubernetes-tools`: builds the test cluster's programs from the Go modules that are pinned beside this file.

They go to a folder named by what is built and how, so a change builds anew and everything else takes no time. Each
program is linked under another name first and then renamed: what stands in `bin` is whole, and usable at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
KUBERNETES = "v1.36.3"


class MissingError(Exception):
    """The tools cannot be had on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Tool:
    """A program, and how it is built. `module` is the folder beside this file that pins it."""

    name: str
    module: str
    package: str
    flags: tuple[str, ...] = ()
    cgo: bool = False


def _stripped(variables: dict[str, str] | None = None) -> tuple[str, ...]:
    setters = [f"-X {name}={value}" for name, value in (variables or {}).items()]
    return ("-trimpath", "-ldflags", " ".join(["-s", "-w", *setters]))


# Without these the API server calls itself v0.0.0-master, which clients refuse to parse.
_VERSION = {
    f"{package}.{name}": value
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    for name, value in {"gitVersion": KUBERNETES, "gitMajor": "1", "gitMinor": "36"}.items()
}


def _kubernetes(name: str, cgo: bool = False) -> Tool:
    return Tool(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", _stripped(_VERSION), cgo)


# In the order in which they are wanted.
TOOLS = (
    Tool("pause", "pause", ".", _stripped()),
    Tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", _stripped({"helm.sh/helm/v4/internal/version.version": "v4.3.1"})),
    _kubernetes("kube-apiserver"),
    _kubernetes("kubectl"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet", cgo=True),
    _kubernetes("kube-proxy"),
    Tool("coredns", "coredns", "github.com/coredns/coredns", _stripped()),
    Tool("jobset", "jobset", "sigs.k8s.io/jobset", _stripped()),
    Tool("kueue", "kueue", "sigs.k8s.io/kueue/cmd/kueue", _stripped()),
)
CHARTS = {"jobset": "sigs.k8s.io/jobset", "kueue": "sigs.k8s.io/kueue"}


def folder() -> Path:
    """Where this version of the tools belongs: `bin` with the programs, `charts` with the Helm charts."""
    base = os.environ.get("TUNEYARD_TOOLS") or Path.home() / ".cache" / "tuneyard" / "kubernetes-tools"
    return Path(base).absolute() / _key()


def missing(addons: Collection[str] = tuple(CHARTS)) -> list[str]:
    """The names of programs and charts that are not built yet; of the add-ons only those that are named."""
    wanted = {tool.name: folder() / "bin" / tool.name for tool in TOOLS if tool.name not in CHARTS.keys() - {*addons}}
    wanted |= {f"chart of {name}": folder() / "charts" / name for name in addons}
    return [name for name, path in wanted.items() if not path.exists()]


def build() -> None:
    """Builds what is missing; MissingError when this machine cannot."""
    if not missing():
        return
    _require_machine()
    with _only_one(folder()):
        for name, module in CHARTS.items():
            _copy_chart(name, module, folder() / "charts" / name)
        for tool in TOOLS:
            if not (folder() / "bin" / tool.name).exists():
                started = time.monotonic()
                _compile(tool, folder() / "bin" / tool.name)
                print(f"{tool.name:24} {time.monotonic() - started:6.1f} s", flush=True)


def _key() -> str:
    digest = hashlib.sha256(repr((TOOLS, CHARTS, platform.machine())).encode())
    for path in sorted(HERE.glob("*/*")):
        if path.suffix in (".go", ".mod", ".sum"):
            digest.update(f"{path.relative_to(HERE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _require_machine() -> None:
    if sys.platform != "linux":
        raise MissingError("not Linux, which the nodes of the test cluster need")
    if os.geteuid() != 0:
        raise MissingError("not root, which the nodes of the test cluster need")
    if absent := [name for name in ("go", "cc") if shutil.which(name) is None]:
        raise MissingError(f"not installed: {', '.join(absent)} (Go 1.26 or newer, a C compiler for the kubelet)")
    probe = subprocess.run(["go", "list", "-m"], cwd=HERE / "kubernetes", capture_output=True, text=True, check=False)
    if probe.returncode != 0:  # as when Go is too old
        raise MissingError(probe.stderr.strip())


@contextmanager
def _only_one(where: Path) -> Iterator[None]:
    (where / "bin").mkdir(parents=True, exist_ok=True)
    with open(where / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(tool: Tool, target: Path) -> None:
    unfinished = target.with_name(f".{tool.name}.unfinished")
    environment = os.environ | {"CGO_ENABLED": "1" if tool.cgo else "0", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    _go(tool.module, "build", *tool.flags, "-o", unfinished, tool.package, environment=environment)
    unfinished.rename(target)


def _copy_chart(name: str, module: str, target: Path) -> None:
    """A copy of the chart that the module itself carries, so that it outlives Go's own cache."""
    if target.exists():
        return
    source = json.loads(_go(name, "mod", "download", "-json", module))["Dir"]
    unfinished = target.with_name(f".{name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(Path(source) / "charts" / name, unfinished, copy_function=shutil.copyfile)
    for path in (unfinished, *unfinished.rglob("*")):  # Go's cache is read-only
        path.chmod(0o755 if path.is_dir() else 0o644)
    unfinished.rename(target)


def _go(module: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        ["go", *map(str, arguments)], cwd=HERE / module, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"go {arguments[0]} in {HERE / module} failed, see above")
    return done.stdout


def main() -> int:
    """Builds, and says where; a machine that cannot build is told what is left out, which is no failure."""
    try:
        build()
    except MissingError as error:
        print(f"kubernetes-tools: nothing built, and the tests on a Kubernetes cluster will be skipped: {error}")
        return 0
    except KeyboardInterrupt:
        print("kubernetes-tools: interrupted; what is built stays, the next call goes on", file=sys.stderr)
        return 130
    print(folder() / "bin")
    return 0


if __name__ == "__main__":
    sys.exit(main())
