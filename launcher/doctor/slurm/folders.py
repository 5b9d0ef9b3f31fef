"""A site's folders, seen from a login node: are they there, writable, and on storage that all nodes share?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cluster.slurm.profile import Profile
from launcher.doctor import Check, fail, not_read, ok, warn
from launcher.doctor.machine import write_problem
from launcher.home import expanded

NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")
LOCAL_KINDS = {"tmpfs", "ramfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "squashfs", "vfat"}


def folder_checks(profile: Profile, tmp_fs: str = "") -> Iterator[Check]:
    """run_root, and what the profile's setup names."""
    yield _run_root(profile, tmp_fs)
    setup = profile.setup
    if setup.venv:
        yield _there("venv", Path(setup.venv) / "bin" / "python", "make it there, or correct setup.venv")
    if setup.container and setup.container.image.startswith("/"):
        yield _there("container image", Path(setup.container.image), "correct setup.container.image")
    if profile.modules:
        yield not_read("modules", ", ".join(profile.modules), "`module avail` lists them")


def kind_of(folder: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds a folder; empty when it cannot be told."""
    try:
        text = Path("/proc/mounts").read_text(encoding="utf-8") if mounts is None else mounts
    except OSError:
        return ""
    best, kind = "", ""
    for words in (line.split() for line in text.splitlines()):
        point = words[1].replace("\\040", " ")
        if len(point) >= len(best) and (folder == Path(point) or Path(point) in folder.parents):
            best, kind = point, words[2]
    return kind


def _run_root(profile: Profile, tmp_fs: str) -> Check:
    if not profile.run_root:
        return warn("run root", "not set: runs go to ./runs", "set `run_root` to a folder that all nodes share")
    folder = expanded(os.path.expandvars(profile.run_root))
    real = folder.resolve()
    if any(Path(local) == real or Path(local) in real.parents for local in (*NODE_LOCAL, *filter(None, [tmp_fs]))):
        return fail("run root", f"{folder} is each node's own", "name a folder on storage that all nodes share")
    if not folder.is_dir():
        return fail("run root", f"no folder {folder}", f"mkdir -p {folder}, or correct run_root")
    if problem := write_problem(folder):
        return fail("run root", f"{folder} cannot be written: {problem}", "name a folder of your own")
    kind = kind_of(real)
    if kind in LOCAL_KINDS:
        return warn("run root", f"{folder} is on {kind}, which is mostly one machine's", "make sure all nodes see it")
    return ok("run root", f"{folder} ({kind or 'file system not read'})")


def _there(name: str, path: Path, remedy: str) -> Check:
    return ok(name, str(path)) if path.exists() else fail(name, f"{path} is not here", remedy)
