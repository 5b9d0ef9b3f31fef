"""Real ranks for tests: processes over Gloo, forked from one server that has torch, Transformers and DeepSpeed loaded.

Loading takes some nine seconds once; after that a fresh rank costs milliseconds, and no state is left over from
one test to the next.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOAD = ["tests.support.preload"]
TIMEOUT_SECONDS = 120


class RankFailedError(AssertionError):
    """A rank raised or died; the message holds its traceback."""


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: Any, distributed: bool = True) -> list[Any]:
    """`function(*args)` on every rank; JSON results in the order of ranks.

    Args:
        function: a module-level function, found again by name in the rank.
        distributed: initialise a process group first.
    """
    with RankGroup(function, world_size, *args, distributed=distributed) as group:
        group.wait(TIMEOUT_SECONDS)
        group.end()
        return [group.result(rank) for rank in range(world_size)]


class RankGroup:
    """Ranks that run `function(*args)`; leaving its block ends them.

    Args:
        function, world_size, args, distributed: as of `run_on_ranks`.
        log: where the ranks' words go, instead of the test's own output.

    Attributes:
        processes: one per rank.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        world_size: int,
        *args: Any,
        distributed: bool = True,
        log: Path | None = None,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        self._folder = tempfile.TemporaryDirectory()
        name = (function.__module__, function.__qualname__)
        settings = {
            "world_size": world_size,
            "folder": self._folder.name,
            "distributed": distributed,
            "log": str(log) if log else None,
        }
        self.processes: list[BaseProcess] = [
            context.Process(target=_rank, args=(name, rank, args, settings)) for rank in range(world_size)
        ]
        for process in self.processes:
            process.start()

    def __enter__(self) -> RankGroup:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()
        self._folder.cleanup()

    def wait(self, seconds: float) -> bool:
        """Wait for all ranks to end, at most so long; whether they have."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        return not any(process.is_alive() for process in self.processes)

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
        for process in self.processes:
            process.join()

    def result(self, rank: int) -> Any:
        """What the function returned on `rank`.

        Raises:
            RankFailedError: it raised, or the rank was killed.
        """
        file = Path(self._folder.name) / f"result-{rank}"
        if not file.exists():
            raise RankFailedError(f"rank {rank} died or hung, exit code {self.processes[rank].exitcode}")
        answer = json.loads(file.read_text())
        if "error" in answer:
            raise RankFailedError(f"rank {rank}:\n{answer['error']}")
        return answer["result"]


def _rank(name: tuple[str, str], rank: int, args: Any, settings: dict[str, Any]) -> None:
    answer: dict[str, Any]
    folder = Path(settings["folder"])
    if settings["log"]:
        _write_to(settings["log"])
    try:
        answer = {"result": _call(name, rank, args, settings)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
        if settings["log"]:
            traceback.print_exc()
    staging = folder / f".result-{rank}"
    staging.write_text(json.dumps(answer))
    staging.rename(folder / f"result-{rank}")
    os._exit(1 if "error" in answer else 0)  # DeepSpeed's and Gloo's threads need no orderly end here


def _write_to(log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _call(name: tuple[str, str], rank: int, args: Any, settings: dict[str, Any]) -> Any:
    import torch
    import torch.distributed as dist

    from trainer.runtime.process import log_to_stdout

    log_to_stdout()
    torch.set_num_threads(1)
    world_size = settings["world_size"]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "localhost"}
    if settings["distributed"]:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{settings['folder']}/rendezvous",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
    function = importlib.import_module(name[0])
    for part in name[1].split("."):
        function = getattr(function, part)
    return function(*args)  # type: ignore[operator]
