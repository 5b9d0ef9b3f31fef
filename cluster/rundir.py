"""Reading and writing the shared files of a run directory (docs/run-directory.md).

Writers replace a whole file at once: written beside, flushed to the disk, renamed. So a reader sees the old
file or the new one. Readers are tolerant all the same: disks fill up, and people edit files.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.contract import ClusterError

PLAN = "plan.json"
PROGRESS = "progress.json"
FAILURE = "failure.json"
FINISHING = "finishing.json"
ATTEMPTS = "attempts.jsonl"
STOP = "stop"
DOWN_NODES = "down-nodes"
OBSERVED = "observed.json"
EVALUATION = "evaluation.json"
PHASE = "phase.json"
SECTIONS_OF_PROGRESS = ("last_checkpoint", "phase_seconds", "longest_seconds", "save_problem")
PREFLIGHT = "data/preflight.json"
FINGERPRINT = "data/fingerprint.json"
METRICS = "logs/metrics.jsonl"
MIRRORED = (ATTEMPTS, PROGRESS, PHASE, FAILURE, FINISHING, OBSERVED, EVALUATION, PREFLIGHT)
"""What only the run writes and the command line reads, replaced as a whole: a copy of a run directory carries it."""
MIRRORED_LOGS = r"logs/attempt-\d{3,6}/[a-z0-9-]{1,40}\.(?:log|txt)"
"""Files that only grow, besides `METRICS`; of the ranks' logs, those that are asked for."""


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when there is no such file; ClusterError when it is damaged."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")  # what is no text is no JSON object either
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ClusterError(f"{path}: cannot be read: {error.strerror}") from error
    value = _parse_object(text)
    if value is None:
        raise ClusterError(f"{path}: does not hold a JSON object", "it is damaged, or was edited by hand")
    return value


def read_json_loosely(path: Path) -> dict[str, Any]:
    """A file that somebody else replaces: whatever is wrong with it now may be right in a moment."""
    try:
        return read_json(path) or {}
    except ClusterError:
        return {}


def read_json_of_others(path: Path) -> dict[str, Any]:
    """A file by which another machine speaks to this one; empty as long as it has not.

    Network file systems may remember for a minute that a name is not there, but a file that is there is looked up
    anew whenever it is opened. So one that is waited for is created here, empty; others replace it.
    """
    if not path.exists():  # as far as is remembered here: to create it asks the server, and harms no file that is there
        with contextlib.suppress(OSError):  # a full disk, or one that may only be read: then the minute has to pass
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o644))
    return read_json_loosely(path)


def write_json_atomic(path: Path, value: dict[str, Any]) -> None:
    """Replaces `path` with `value` as JSON; a crash at any moment leaves the old file or the new one."""
    _replace_text(path, json.dumps(value, indent=1) + "\n")


def read_plan(run_dir: Path) -> dict[str, Any]:
    """plan.json, which must be there before anything can start."""
    plan = read_json(run_dir / PLAN)
    if plan is None:
        raise ClusterError(f"{run_dir / PLAN}: no such file", "name the directory of a run that was planned")
    return plan


def read_progress(run_dir: Path) -> dict[str, Any] | None:
    """Where the trainer is; None when it has not said so yet, or the file cannot be read.

    On a full disk the trainer can only touch the file: its time counts as a heartbeat, too. Why an attempt failed
    stands under `failure`, which no later word of another rank takes back.
    """
    return _with_failure(_progress(run_dir), read_json_loosely(run_dir / FAILURE))


def of_attempt(progress: Mapping[str, Any] | None, attempt: int) -> Mapping[str, Any]:
    """progress.json when this attempt wrote it; else empty, since it tells about another one."""
    return progress if progress is not None and progress.get("attempt") == attempt else {}


def _progress(run_dir: Path) -> dict[str, Any] | None:
    try:
        progress = read_json(run_dir / PROGRESS)
        touched = (run_dir / PROGRESS).stat().st_mtime if progress else 0.0
    except (ClusterError, OSError):
        return None
    for name in SECTIONS_OF_PROGRESS:
        if progress is not None and not isinstance(progress.get(name), dict):
            progress.pop(name, None)  # somebody has edited it
    if progress is not None and isinstance(progress.get("heartbeat"), int | float):
        progress["heartbeat"] = max(progress["heartbeat"], touched)
    return progress


def _with_failure(progress: dict[str, Any] | None, failure: dict[str, Any]) -> dict[str, Any] | None:
    """The progress with the failure, when it is of this attempt or a newer one that has told nothing else."""
    facts, failed = progress or {}, failure.get("attempt")
    told = facts.get("attempt")
    if not isinstance(failed, int) or (isinstance(told, int) and told > failed):
        return progress
    if told == failed and (facts.get("state") == "finished" or facts.get("trained")):  # its work was done, and saved
        return {**facts, "state": "finished"}
    beats = [one for one in (facts.get("heartbeat"), failure.get("time")) if isinstance(one, int | float)]
    return {**facts, "state": "failed", "attempt": failed, "failure": failure, "heartbeat": max(beats, default=None)}


def read_attempts(run_dir: Path) -> list[dict[str, Any]]:
    """The records of all attempts, oldest first; lines that are not records are left out."""
    records = [_parse_object(line) or {} for line in _attempt_lines(run_dir)]
    return [record for record in records if isinstance(record.get("attempt"), int)]


def next_attempt(run_dir: Path) -> int:
    """The number of the attempt to come: never one that was used before, damaged lines included."""
    used = [record["attempt"] for record in read_attempts(run_dir)]
    return max([len(_attempt_lines(run_dir)), *(number + 1 for number in used)])


def put_attempt(run_dir: Path, record: dict[str, Any]) -> None:
    """Writes an attempt's record: in place of the line with the same number, else as a new last line."""
    lines, new_line = _attempt_lines(run_dir), json.dumps(record)
    for index, line in enumerate(lines):
        if (_parse_object(line) or {}).get("attempt") == record["attempt"]:
            lines[index] = new_line
            break
    else:
        lines.append(new_line)
    _replace_text(run_dir / ATTEMPTS, "".join(f"{line}\n" for line in lines))


def write_stop(run_dir: Path, reason: str, by: str, *, urgent: bool = False) -> None:
    """Asks the trainer to save at its next step boundary and leave; `reason` becomes the outcome.

    `urgent` starts the grace period, as a signal to the agents would, without a signal that also hits the ranks.
    """
    stop = {"reason": reason, "by": by, "time": time.time()}
    write_json_atomic(run_dir / STOP, {**stop, "urgent": True} if urgent else stop)


def read_stop(run_dir: Path) -> dict[str, Any] | None:
    """The wish to stop, None when there is none. An empty or unreadable file is a wish of the user's."""
    try:
        stop = read_json(run_dir / STOP)
    except ClusterError:
        return {"reason": "stopped"}
    return stop if stop is None else {"reason": "stopped", **stop}


def clear_stop(run_dir: Path) -> None:
    """Removes the wish to stop, if there is one."""
    (run_dir / STOP).unlink(missing_ok=True)


def read_down_nodes(run_dir: Path) -> dict[str, str]:
    """Nodes that the scheduler called down when it was last asked, each with its state; written by a batch script."""
    try:
        text = (run_dir / "logs" / DOWN_NODES).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {line.split()[0]: line.split()[1].rstrip("*") for line in text.splitlines() if len(line.split()) > 1}


def attempt_log_dir(run_dir: Path, attempt: int) -> Path:
    """Where the logs of one attempt lie."""
    return run_dir / "logs" / f"attempt-{attempt:03d}"


def rank_log_name(rank: int) -> str:
    """The file name of one rank's log."""
    return f"rank-{rank:05d}.log"


def _attempt_lines(run_dir: Path) -> list[str]:
    try:
        text = (run_dir / ATTEMPTS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ClusterError(f"{run_dir / ATTEMPTS}: cannot be read: {error.strerror}") from error
    return [line for line in text.splitlines() if line.strip()]


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _replace_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(beside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ClusterError(
            f"{path}: cannot be written: {error.strerror}", "free disk space, or fix its owner"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
