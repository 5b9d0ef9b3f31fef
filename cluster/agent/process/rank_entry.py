"""What torchrun starts once per rank: sends the rank's words to its own log, then becomes the trainer.

`exec` keeps the process id, so torchrun's signals and exit codes reach the trainer itself.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from cluster.agent.process.children import die_with_parent
from rundir.paths import rank_log_name

LOG_DIR = "TUNEYARD_LOG_DIR"
AGENT_PID = "TUNEYARD_AGENT_PID"
RANK_STARTED = "TUNEYARD_RANK_STARTED"
"""Unix seconds at which this rank's process began, for the trainer's account of the time."""


def main() -> None:
    """Never returns: replaces itself by `python -m trainer train RUN_DIR`."""
    die_with_parent(orphaned_to=[1, int(os.environ[AGENT_PID])])
    log_dir, rank = Path(os.environ[LOG_DIR]), int(os.environ["RANK"])
    log = log_dir / rank_log_name(rank)
    write_to(log)
    log.with_suffix(".pid").write_text(str(os.getpid()))  # for whoever asks why the run stands still
    os.environ[RANK_STARTED] = f"{time.time():.3f}"
    os.execv(sys.executable, [sys.executable, "-m", "trainer", "train", sys.argv[1]])


def write_to(log_path: Path) -> None:
    """Sends stdout and stderr of this process, and of what it becomes, to the end of one file."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)


if __name__ == "__main__":
    main()
