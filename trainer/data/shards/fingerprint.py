"""Whether a run's data folder was made from the same things as now would make it. Imports no tokenizer library."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from trainer.config import DataConfig, TrainerConfig
from trainer.data.read.sources import files_of
from trainer.errors import UserError
from trainer.runtime.files import read_json

logger = logging.getLogger(__name__)

FORMAT = 2
"""Of prepared folders; 2 has digests of contents."""
READABLE_FORMATS = (1, FORMAT)
"""What was prepared in one of these, and finished, is trained on as it is."""


def prepared_report(run_dir: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """The preflight report of `run_dir/data` if that is complete and was made from `key`; None if it is to be made.

    Raises:
        UserError: it was made from other things, and the run has trained on it.
    """
    old = read_json(run_dir / "data" / "fingerprint.json")
    if old is None or not same_data(old, key, run_dir):
        return None
    report: dict[str, Any] | None = read_json(run_dir / "data" / "preflight.json")
    return report


def same_data(old: dict[str, Any], new: dict[str, Any], run_dir: Path) -> bool:
    new = {name: value for name, value in new.items() if name != "stat"}
    if old.get("format") in READABLE_FORMATS:
        del new["format"]
    if all(old.get(name) == value for name, value in new.items()):
        return True
    if not any((run_dir / "checkpoints").glob("step-*")):
        return False
    changed = [line for name, value in new.items() for line in _changed(name, old.get(name), value)]
    raise UserError(
        "this run has trained on other data; changed since then:\n  " + "\n  ".join(changed),
        where=str(run_dir / "data" / "fingerprint.json"),
        remedy="put the old data, tokenizer and settings back to resume, or submit a new run",
    )


def _changed(name: str, was: Any, now: Any) -> list[str]:
    """What is different in one part of the key, a line each."""
    if was == now:
        return []
    if name == "settings" and was:
        before, after = json.loads(was), json.loads(now)
        return [
            f"data.{key}: was {before.get(key)!r}, is {after[key]!r}" for key in after if before.get(key) != after[key]
        ]
    if name == "sources" and was and len(was) == len(now):
        pairs = [(at, *pair) for at, pair in enumerate(zip(was, now, strict=True))]
        return [f"content of source {at + 1}: was {_short(b)}, is {_short(a)}" for at, b, a in pairs if b != a]
    if name == "sources":
        return [f"data: {len(was or [])} sources before, {len(now)} now"]
    return [f"{name}: was {_short(was)}, is {_short(now)}"]


def _short(value: Any) -> str:
    """A digest's beginning; names as they are."""
    text = str(value)
    return text[:12] if len(text) == hashlib.sha256().digest_size * 2 else text


def cache_key(config: TrainerConfig, data_dir: Path) -> dict[str, Any]:
    """What a data folder depends on: sources, tokenizer, template, settings. Unchanged files are not read again."""
    settings = config.data.model_dump(include={"max_length", "overlong", "assistant_only_loss"})
    columns = [*(source.columns for source in config.data.train), config.data.eval.columns]
    settings |= {"columns": columns} if any(columns) else {}
    old = read_json(data_dir / "fingerprint.json") or {}
    return {
        "format": FORMAT,
        **_sources_key(config, old),
        "tokenizer": _digest_tokenizer(config),
        "template": _digest_template(config.data),
        "settings": json.dumps(settings, sort_keys=True),
    }


def _sources_key(config: TrainerConfig, old: dict[str, Any]) -> dict[str, Any]:
    """Digest of all rows, and what the file system says of the files, to see cheaply that they are the same."""
    paths = [source.path for source in config.data.train]
    paths += [config.data.eval.path] if config.data.eval.path else []
    try:
        files = {path: files_of(path) for path in paths}
    except UserError as gone:
        if not old:
            raise
        logger.warning(f"{gone.message}: the rows that were tokenised before are used")
        return {"sources": old["sources"], "stat": old["stat"]}
    found = [(str(file), file.stat()) for own in files.values() for file in own]
    stat = {name: [facts.st_size, facts.st_mtime_ns] for name, facts in found}
    if old.get("stat") == stat and stat:
        return {"sources": old["sources"], "stat": stat}
    return {"sources": [_digest_source(path, own) for path, own in files.items()], "stat": stat}


def _digest_source(path: str, files: list[Path]) -> str:
    """SHA-256 over the files of a source, or the name of one on the hub."""
    if not files:
        return path
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _digest_tokenizer(config: TrainerConfig) -> str:
    changed = [config.model.eos_token, config.model.added_tokens]
    return _digest_files(config) + (f" with {json.dumps(changed)}" if any(changed) else "")


def _digest_files(config: TrainerConfig) -> str:
    folder = Path(config.model.path)
    if not folder.is_dir():
        return f"{config.model.path}@{config.model.revision}"
    digest = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        digest.update((folder / name).read_bytes() if (folder / name).is_file() else b"-")
    return digest.hexdigest()


def _digest_template(data: DataConfig) -> str:
    name = data.chat_template
    if name and name.endswith(".jinja") and Path(name).is_file():
        digest = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    else:
        digest = name or "tokenizer"
    options = data.chat_template_kwargs
    return f"{digest} with {json.dumps(options, sort_keys=True)}" if options else digest
