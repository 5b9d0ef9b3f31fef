"""Tokenises chunks in worker processes. No process group is involved, so no collective can time out."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path

from trainer.config import TrainerConfig
from trainer.data.read.sources import Chunk
from trainer.data.tokenise.tokeniser import Tokeniser
from trainer.errors import UserError
from trainer.runtime.process import end_with_parent

MOST_BAD_ROWS = 1000
"""So many rows that cannot be used end the reading: the files are of another kind, not damaged."""

_config = ""
_worker: Tokeniser | None = None


def write_shards(work: Iterator[tuple[Chunk, Path]], tokeniser: Tokeniser, config: TrainerConfig) -> Iterator[int]:
    """Write a shard for each chunk; yields how many are done. At most a few chunks wait in memory.

    Args:
        tokeniser: loaded before any process starts, so what it refuses is refused once.

    Raises:
        UserError: what a worker refuses; a worker was killed.
    """
    first = list(islice(work, 2))
    parallel = config.execution.num_proc > 1 and len(first) > 1  # a single chunk is done before a process has started
    if first:
        tokeniser.load_for(first[0][0])
    work = chain(first, work)
    counted = _in_processes(work, config) if parallel else _here(work, tokeniser)
    done = bad = 0
    for bad_rows in counted:
        done, bad = done + 1, bad + bad_rows
        yield done
        if bad >= MOST_BAD_ROWS:
            return


def _here(work: Iterator[tuple[Chunk, Path]], tokeniser: Tokeniser) -> Iterator[int]:
    for chunk, shard in work:
        yield tokeniser.write_shard(chunk, shard)


def _in_processes(work: Iterator[tuple[Chunk, Path]], config: TrainerConfig) -> Iterator[int]:
    num_proc = config.execution.num_proc
    context = multiprocessing.get_context("spawn")
    waiting: set[Future[int]] = set()
    with ProcessPoolExecutor(num_proc, context, _start_worker, (config.model_dump_json(),)) as pool:
        try:
            for chunk, shard in work:
                waiting.add(pool.submit(_write_shard, chunk, shard))
                if len(waiting) >= 2 * num_proc:
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            yield from (future.result() for future in wait(waiting).done)
        except BrokenProcessPool:
            raise UserError(
                "a process that tokenises was killed, as happens where memory runs out",
                remedy="start again where there is more memory; what has been tokenised is kept",
            ) from None
        finally:
            for future in waiting:
                future.cancel()


def _start_worker(config_json: str) -> None:
    """Only remember the settings: what fails in here would break the pool, and its words would be lost."""
    global _config
    end_with_parent(os.getppid())
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _config = config_json


def _write_shard(chunk: Chunk, shard: Path) -> int:
    global _worker
    if _worker is None:
        config = TrainerConfig.model_validate_json(_config)
        _worker = Tokeniser(config.model, config.data)
    return _worker.write_shard(chunk, shard)
