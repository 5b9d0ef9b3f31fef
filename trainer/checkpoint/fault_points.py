"""Named moments in the life of a checkpoint. Tests and the chaos harness strike at them; training just passes by."""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "reserve",  # first rank, before the staging folder is made
    "reserved",
    "copied",  # the state is on the host, nothing is written
    "file open",  # the header is written
    "file half",
    "file unsynced",
    "file synced",
    "file read back",
    "manifest open",
    "manifest written",
    "staging synced",  # everything is durable under its staging name
    "renamed",  # published, the folder's entry not yet durable
    "published",
    "prune",
    "trashed",  # a doomed checkpoint has its trash name
    "trash half",  # its first file is gone
    "pruned",
    "pointer",  # progress.json names the new checkpoint
)
"""In the order of a save's life; those of a file are passed by every rank's writer, the others by rank 0 mostly."""

_watchers: list[Callable[[str], None]] = []


def passing(point: str) -> None:
    """Tell the watchers, if there are any, that this process is at `point`."""
    for watcher in _watchers:
        watcher(point)


def watch(watcher: Callable[[str], None]) -> None:
    """Have `watcher(point)` called at every point of this process, in the thread that passes it."""
    _watchers.append(watcher)
