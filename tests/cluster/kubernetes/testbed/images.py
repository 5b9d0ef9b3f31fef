"""Container images made by hand, as no registry is needed for a few folders and a program.

The training image is nearly empty: this machine's `/usr`, its Python and the virtual environment are mounted read-only
into every container by the container runtime. Kubernetes does not know, so its security rules stay in force.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from pathlib import Path
from typing import Any

from tests.cluster.kubernetes.testbed.config import REGISTRY, TRAINER_IMAGE
from tests.cluster.kubernetes.testbed.host import run
from tests.cluster.kubernetes.tools import build

ROOT = Path(__file__).parents[4]
PAUSE_IMAGE = f"{REGISTRY}/pause:1"
_VENV, _CHECKOUT = "/opt/venv", "/opt/tuneyard"
_FOLDERS = ("etc", "opt", "proc", "sys", "dev", "tmp", "usr", "home", "home/trainer", "var", "var/tmp")
_LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
_PASSWD = "root:x:0:0::/root:/bin/sh\ntrainer:x:1000:1000::/home/trainer:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
_GROUP = "root:x:0:\ntrainer:x:1000:\nnogroup:x:65534:\n"


def write_trainer_image(path: Path) -> None:
    """The image that stands for a user's training image: `python` in it has the project and all it needs."""
    entries = [_folder(name) for name in _FOLDERS] + [_link(name, target) for name, target in _LINKS.items()]
    entries += [_file("etc/passwd", _PASSWD.encode()), _file("etc/group", _GROUP.encode())]
    search = f"{_VENV}/bin:{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    variables = {"PATH": search, "PYTHONPATH": _CHECKOUT, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/home/trainer"}
    config = {"Env": [f"{name}={value}" for name, value in variables.items()], "WorkingDir": "/home/trainer"}
    _write_archive(path, TRAINER_IMAGE, entries, {**config, "Cmd": ["python"]})


def write_program_image(path: Path, name: str, program: Path, entrypoint: str) -> None:
    """An image of one static program."""
    _write_archive(
        path,
        name,
        [_file(entrypoint, program.read_bytes(), 0o755)],
        {"Entrypoint": [f"/{entrypoint}"], "User": "65532"},
    )


def write_pause_image(path: Path) -> None:
    """The image of the container that holds a pod's namespaces."""
    write_program_image(path, PAUSE_IMAGE, build.folder() / "bin" / "pause", "pause")


def write_runtime_spec(path: Path) -> None:
    """What the container runtime starts from for each container: its own default, and this machine's folders."""
    spec = json.loads(run("ctr", "oci", "spec"))
    spec["mounts"] += _mounts()
    path.write_text(json.dumps(spec))


def needed_folders() -> list[Path]:
    """What the training image and the tools need of this machine, beside `/usr` and `/etc`."""
    return [Path(sys.base_prefix).resolve(), ROOT, Path(sys.prefix).resolve(), build.folder().resolve()]


def _mounts() -> list[dict[str, Any]]:
    wanted = {"/usr": Path("/usr"), sys.base_prefix: Path(sys.base_prefix)}
    wanted |= {_CHECKOUT: ROOT, _VENV: Path(sys.prefix)}
    wanted |= {name: Path(name) for name in ("/etc/alternatives", "/etc/ld.so.cache")}
    shown = {target: source for target, source in wanted.items() if source.exists()}
    if sys.base_prefix.startswith("/usr/"):
        del shown[sys.base_prefix]
    options = ["rbind", "ro", "nosuid", "nodev"]
    return [
        {"destination": target, "type": "bind", "source": str(source.resolve()), "options": options}
        for target, source in shown.items()
    ]


def _write_archive(path: Path, name: str, entries: list[tuple[tarfile.TarInfo, bytes]], config: dict[str, Any]) -> None:
    """The form of `docker save`: layers, a configuration, a manifest."""
    layer = _tar(entries)
    system = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()], "os": "linux"}
    layers = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    described = json.dumps({**system, "config": config, "rootfs": layers}).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": described, "layer.tar": layer, "manifest.json": json.dumps(manifest).encode()}
    path.write_bytes(_tar([_file(name, content) for name, content in files.items()]))


def _tar(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry, content in entries:
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
    if name == "home/trainer":
        entry.uid = entry.gid = 1000
    return entry, b""


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry, b""


def _file(name: str, content: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    return entry, content
