"""Sums what was found in the rows of one split to its preflight report, with warnings where counts are high."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import SourceConfig
from trainer.data.chat_template.lost_content import AS_PYTHON, NOT_RENDERED
from trainer.data.read.sources import left_out
from trainer.data.shards.token_store import TokenStore
from trainer.data.tokenise.findings import EXAMPLES_KEPT, Findings
from trainer.errors import UserError

LOST_SHARE = 0.02
"""Share of a source's tokens above which losing them to max_length is a warning."""
STOPPED_SHARE = 0.5
"""Share of conversations below which training a stop token is a warning."""
LARGEST_LOSS_WEIGHT = 10.0
"""Larger values are taken for a column of the data's own that happens to be called weight."""
COPIES_SHARE = 0.01
SHOWN_FILES = 1000


class SplitReport:
    """What was found in one split.

    Args:
        folder: of the split, with its shards.
        sources: as the job file names them.
        setting: where they stand in the job file.
    """

    def __init__(self, folder: Path, sources: Sequence[SourceConfig], setting: str) -> None:
        self.split, self.sources, self.setting = folder.name, sources, setting
        self.store = TokenStore(folder)
        self._parts = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(folder.glob("shard-*/findings.json"))]
        self.total = _sum(self._parts)
        self.of_source = [_sum([p for p in self._parts if p["source"] == at]) for at in range(len(sources))]
        self.warnings: list[str] = []
        self.facts: dict[str, Any] = {}

    def refuse_useless(self) -> None:
        """Raises:
        UserError: rows cannot be used, none is left, or a column of weights is none.
        """
        self.total.raise_if_bad()
        if not self.total.kept:
            self._refuse_nothing()
        self._look_at_weights()

    def as_json(self) -> dict[str, Any]:
        """The report, with all that is to be said of it."""
        self._look_at_losses()
        self._look_at_copies()
        self._look_at_templates_and_stops()
        return {
            **self.total.as_json(),
            "lengths": _quantiles(self.store.rows["length"]),
            **self.facts,
            "sources": [_of_source(source, found) for source, found in zip(self.sources, self.of_source, strict=True)],
            "files": self._files(),
            "left_out": [name for source in self.sources for name in left_out(source.path)][:SHOWN_FILES],
            "warnings": self.warnings,
        }

    def note_overlap(self, train: SplitReport) -> None:
        """Count the conversations of this split that the training rows have as well."""
        if self.store.contents is None or train.store.contents is None:
            return
        again = np.flatnonzero(np.isin(self.store.contents, train.store.contents))
        if len(again):
            self.facts["also_in_train"] = len(again)
            self._exemplify("also in train", again)
            self.warnings.append(
                f"{len(again)} of {len(self.store)} conversations to evaluate on are trained on as well: their loss "
                "says nothing about new ones"
            )

    def _refuse_nothing(self) -> None:
        dropped = self.total.dropped
        if set(dropped) == {"weight 0"}:
            raise UserError(f"all {self.split} rows have weight 0", remedy="see `weight` in the data")
        why = "; ".join(f"{count} {reason}" for reason, count in dropped.items()) or "the files are empty"
        remedy = "raise data.max_length, or set data.overlong to truncate or split" if "longer than" in why else ""
        raise UserError(
            f"nothing to {'train' if self.split == 'train' else 'evaluate'} on in the {self.split} rows: {why}",
            remedy=remedy or "see `data` in the job file",
        )

    def _look_at_weights(self) -> None:
        weights, sources = self.store.rows["weight"], self.store.rows["source"]
        given = weights[weights != 1]
        if len(given):
            self.facts["weighted"] = {
                "conversations": len(given),
                "least": _short(given.min()),
                "most": _short(given.max()),
            }
        for at, source in enumerate(self.sources):
            own = weights[sources == at]
            if len(own) and own.max() > LARGEST_LOSS_WEIGHT and "weight" not in source.columns:
                raise UserError(
                    f"the column `weight` of {source.path} goes up to {own.max():g}, which is no weight in a loss",
                    remedy=f"say what it is under {self.setting}: `columns: {{weight: null}}` leaves it alone, "
                    "`columns: {weight: weight}` multiplies the loss of each row by it",
                )

    def _look_at_losses(self) -> None:
        for source, found in zip(self.sources, self.of_source, strict=True):
            share = lost_share(found)
            if share > LOST_SHARE:
                self.warnings.append(
                    f"{share:.0%} of the tokens of {source.path} are lost: conversations longer than data.max_length "
                    f"are cut or dropped (the longest has {found.longest:,} tokens); raise it, or set data.overlong to "
                    "split"
                )

    def _look_at_copies(self) -> None:
        contents = self.store.contents
        if contents is None or not len(contents):
            return
        _, first, which = np.unique(contents, return_index=True, return_inverse=True)
        copies = np.flatnonzero(first[which] != np.arange(len(contents)))
        if not len(copies):
            return
        sources = self.store.rows["source"]
        across = int((sources[copies] != sources[first[which[copies]]]).sum())
        self.facts["copies"] = {"conversations": len(copies), "across sources": across}
        self._exemplify("copies", copies)
        if len(copies) > COPIES_SHARE * len(contents):
            self.warnings.append(
                f"{len(copies)} of {len(contents)} conversations are copies of others, and each is trained on"
            )

    def _look_at_templates_and_stops(self) -> None:
        for reason, count in self.total.changed.items():
            if reason.endswith(NOT_RENDERED) or reason == AS_PYTHON:
                self.warnings.append(f"{reason}, in {count} of the rows: set data.chat_template to one that does")
        stopped = self.total.stop_trained / max(self.total.kept, 1)
        if self.split == "train" and 0 < stopped < STOPPED_SHARE:
            self.warnings.append(
                f"only {stopped:.0%} of the conversations train a token that ends a turn: the model may not learn to "
                "stop"
            )

    def _files(self) -> list[list[Any]]:
        rows: dict[str, int] = {}
        for part in self._parts:
            rows[part["file"]] = rows.get(part["file"], 0) + part["rows"]
        return [[file, count] for file, count in list(rows.items())[:SHOWN_FILES]]

    def _exemplify(self, reason: str, numbers: np.ndarray) -> None:
        shards = [self.store.shard_of(int(number)) for number in numbers[:EXAMPLES_KEPT]]
        rows = self.store.rows["row"][numbers[:EXAMPLES_KEPT]]
        self.total.examples[reason] = [f"{self._parts[at]['file']}:{row}" for at, row in zip(shards, rows, strict=True)]


def lost_share(found: Findings) -> float:
    """Share of all tokens that conversations longer than max_length lose."""
    return found.lost_tokens / max(found.tokens + found.lost_tokens, 1)


def _sum(parts: list[dict[str, Any]]) -> Findings:
    total = Findings()
    for part in parts:
        total.add(part)
    return total


def _of_source(source: SourceConfig, found: Findings) -> dict[str, Any]:
    names = ("rows", "kept", "tokens", "supervised_tokens", "lost_tokens", "longest")
    return {
        "path": source.path,
        **{name: getattr(found, name) for name in names},
        "lost_share": round(lost_share(found), 4),
    }


def _short(value: np.floating) -> float:
    return float(f"{value:.4g}")


def _quantiles(lengths: np.ndarray) -> dict[str, int]:
    if not len(lengths):
        return {}
    at = {"min": 0, "median": 50, "p95": 95, "p99": 99, "max": 100}
    return {name: int(np.percentile(lengths, q, method="higher")) for name, q in at.items()}
