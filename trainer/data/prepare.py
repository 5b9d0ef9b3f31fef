"""Tokenises all sources into a run's `data/` folder, in parallel and resumably, and reports what it found.

No process group is involved, so no collective can time out. A chunk's shard appears whole or not at all; a killed
preparation goes on with the chunks that are missing. The key over data, tokenizer, template and settings decides
whether a prepared folder may be used again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rundir.quantities import count
from trainer.config import SourceConfig, TrainerConfig
from trainer.data.chat_template.tokenizer import fitting_advice
from trainer.data.pack.length_counts import settle_steps
from trainer.data.preflight import SplitReport
from trainer.data.prompts import read_prompts
from trainer.data.read.extent import Extent
from trainer.data.read.sources import Chunk, read_chunks
from trainer.data.shards.fingerprint import cache_key, prepared_report
from trainer.data.shards.token_store import TokenStore
from trainer.data.tokenise.tokeniser import Tokeniser
from trainer.data.tokenise.workers import write_shards
from trainer.errors import RowError, UserError
from trainer.runtime.files import write_json_atomic
from trainer.runtime.phase_progress import counting


def prepare(run_dir: Path, config: TrainerConfig, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Make `run_dir/data` complete and return the preflight report.

    Raises:
        UserError: broken rows, nothing to train on, an untrained stop token, or data that changed under a run that
            has already trained on it.
    """
    data_dir = run_dir / "data"
    key = cache_key(config, data_dir)
    report_before = prepared_report(run_dir, key)
    if report_before is not None:
        return report_before
    _start_over_if_other(data_dir, key)
    tokeniser = Tokeniser(config.model, config.data)
    _refuse_prompts(config, tokeniser)
    found = {"train": _prepare_split(data_dir / "train", config.data.train, tokeniser, config, report)}
    if config.data.eval.path:
        sources = [SourceConfig(path=config.data.eval.path, columns=config.data.eval.columns)]
        found["eval"] = _prepare_split(data_dir / "eval", sources, tokeniser, config, report)
        found["eval"].note_overlap(found["train"])
    preflight = {split: report_of.as_json() for split, report_of in found.items()}
    report(settle_steps(data_dir, config))
    _finish(data_dir, key, preflight, held_out=config.data.eval.split > 0)
    return preflight


def _refuse_prompts(config: TrainerConfig, tokeniser: Tokeniser) -> None:
    """Prompts are answered when all is over; that they cannot be is said now.

    Raises:
        UserError: a line is broken, or the chat template refuses it.
    """
    for prompt in read_prompts(Path(config.evaluation.generate)) if config.evaluation.generate else ():
        try:
            tokeniser.renderer.prompt(prompt.conversation)
        except RowError as error:
            raise UserError(f"not a prompt: {error}", where=prompt.place, remedy="see evaluation.generate") from None


def _finish(data_dir: Path, key: dict[str, Any], preflight: dict[str, Any], *, held_out: bool) -> None:
    content = hashlib.sha256()
    for split in sorted(preflight):
        content.update(TokenStore(data_dir / split).fingerprint(held_out=held_out).encode())
    write_json_atomic(data_dir / "preflight.json", preflight)
    write_json_atomic(data_dir / "fingerprint.json", {"content": content.hexdigest(), **key})


def _start_over_if_other(data_dir: Path, key: dict[str, Any]) -> None:
    """Shards of an unfinished preparation stay only when they were made from the same things."""
    mark = data_dir / "key.json"
    if data_dir.exists() and not (mark.exists() and json.loads(mark.read_text()) == key):
        shutil.rmtree(data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(mark, key)


def _prepare_split(
    folder: Path,
    sources: list[SourceConfig],
    tokeniser: Tokeniser,
    config: TrainerConfig,
    report: Callable[[str], None],
) -> SplitReport:
    folder.mkdir(parents=True, exist_ok=True)
    extent = Extent(sources)
    missing = _missing(folder, sources, extent)
    with counting(folder.parents[1], "tokenising", extent.total_megabytes, "MB") as counter:
        for done in write_shards(missing, tokeniser, config):
            megabytes, rows = extent.at(done)
            counter.at(megabytes, f"{count(rows, 'row')} of {folder.name}")
            report(f"tokenised {count(done, 'chunk')} of {folder.name}, {count(rows, 'row')}")
    found = SplitReport(folder, sources, "data.train" if folder.name == "train" else "data.eval")
    found.refuse_useless()
    _refuse_endless(found, tokeniser)
    return found


def _missing(folder: Path, sources: list[SourceConfig], extent: Extent) -> Iterator[tuple[Chunk, Path]]:
    """The chunks that have no shard yet, each with the place of its shard."""
    for chunk in read_chunks(sources):
        shard = folder / f"shard-{chunk.number:05d}"
        missing = not shard.exists()
        extent.passed(chunk, counted=missing)
        if missing:
            yield chunk, shard


def _refuse_endless(found: SplitReport, tokeniser: Tokeniser) -> None:
    if not found.total.stop_trained:
        stops = ", ".join(tokeniser.renderer.ends.texts) or "none: the tokenizer has no eos_token"
        raise UserError(
            f"no supervised token ends a turn (tokens that do: {stops}): the model would never learn to stop",
            remedy="let the assistant's part end with such a token, inside {% generation %} where the template has it; "
            + fitting_advice(tokeniser.tokenizer),
        )
