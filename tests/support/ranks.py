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
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

PRELOAD = ["torch", "torch.distributed.fsdp", "transformers", "peft", "deepspeed", "tests.support.preload"]
TIMEOUT_SECONDS = 120


class RankFailedError(AssertionError):
    """A rank raised or died; the message holds its traceback."""


def run_on_ranks(function: Callable[..., Any], world_size: int, *args: Any, distributed: bool = True) -> list[Any]:
    """`function(*args)` on every rank; JSON results in the order of ranks.

    Args:
        function: a module-level function, found again by name in the rank.
        distributed: initialise a process group first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    name = (function.__module__, function.__qualname__)
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            context.Process(target=_rank, args=(name, rank, world_size, args, folder, distributed))
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join(TIMEOUT_SECONDS)
        hung = [rank for rank in ranks if rank.is_alive()]
        for rank in hung:
            rank.kill()
            rank.join()
        return [_result(Path(folder), number, rank.exitcode) for number, rank in enumerate(ranks)]


def _result(folder: Path, rank: int, exit_code: int | None) -> Any:
    file = folder / f"result-{rank}"
    if not file.exists():
        raise RankFailedError(f"rank {rank} died or hung, exit code {exit_code}")
    answer = json.loads(file.read_text())
    if "error" in answer:
        raise RankFailedError(f"rank {rank}:\n{answer['error']}")
    return answer["result"]


def _rank(name: tuple[str, str], rank: int, world_size: int, args: Any, folder: str, distributed: bool) -> None:
    answer: dict[str, Any]
    try:
        answer = {"result": _call(name, rank, world_size, args, folder, distributed)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    staging = Path(folder) / f".result-{rank}"
    staging.write_text(json.dumps(answer))
    staging.rename(Path(folder) / f"result-{rank}")
    os._exit(0)  # DeepSpeed's and Gloo's threads need no orderly end here


def _call(name: tuple[str, str], rank: int, world_size: int, args: Any, folder: str, distributed: bool) -> Any:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "localhost"}
    if distributed:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=60),
        )
    function = importlib.import_module(name[0])
    for part in name[1].split("."):
        function = getattr(function, part)
    return function(*args)  # type: ignore[operator]
