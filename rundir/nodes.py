"""logs/down-nodes: which nodes the scheduler called down when it was last asked; written by a batch script."""

from __future__ import annotations

from pathlib import Path

from rundir.paths import RunPaths


def read_down_nodes(run_dir: Path) -> dict[str, str]:
    """Each node that is down with its state; empty when nobody asked."""
    try:
        text = RunPaths(run_dir).down_nodes.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {line.split()[0]: line.split()[1].rstrip("*") for line in text.splitlines() if len(line.split()) > 1}
