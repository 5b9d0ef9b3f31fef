"""Named points in the life of a checkpoint, at which tests and the chaos harness inject faults; otherwise no-ops."""

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
    "trashed",  # a checkpoint to prune has its trash name
    "trash half",  # its first file is gone
    "pruned",
    "pointer",  # progress.json names the new checkpoint
)
"""In the order of a save. Every rank's writer reaches those of a file; mostly rank 0 alone reaches the others."""

_watchers: list[Callable[[str], None]] = []


def fault_point(point: str) -> None:
    """This process is at `point`: calls the watchers, if there are any."""
    for watcher in _watchers:
        watcher(point)


def watch(watcher: Callable[[str], None]) -> None:
    """Have `watcher(point)` called at every point of this process, in the thread that reaches it."""
    _watchers.append(watcher)
