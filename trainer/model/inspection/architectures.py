"""The table of all architectures of the installed Transformers, and how each is run: a page of the manual.

`python -m trainer.model.inspection.architectures docs/architectures.md` writes it, and
`tests/unit/trainer/model/test_architectures.py` holds it against the twins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from trainer.capabilities import NOT_CAUSAL, TWO_PARTS
from trainer.model.inspection.twin import Verdict, verdict_of
from trainer.model_files.inspection_cache import ALONE, PACKED, REFUSED

NO_DECODERS = NOT_CAUSAL | TWO_PARTS | {"blt", "git", "moshi"}
"""Encoders, parts of encoder-decoders, and what reads bytes: refused, and left out of the table."""
LEFT_OPEN: dict[str, dict[str, Any]] = {
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 6, "n_group": 1, "topk_group": 1},
    "dots1": {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 4, "moe_topk": 2},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "conv"], "num_hidden_layers": 4},
    "ministral": {"head_dim": 128},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
}
"""Settings without which a configuration is none: these classes have no defaults for them."""


@dataclass(frozen=True)
class Row:
    """One family.

    Attributes:
        family: its `model_type`.
        verdict: how its default configuration is run.
    """

    family: str
    verdict: Verdict

    def __str__(self) -> str:
        words = {PACKED: "packed", ALONE: "alone", REFUSED: "refused"}
        reason = self.verdict.reason.partition(": loss by")[0].replace("|", "/")
        notes = [reason] if reason else []
        notes += [f"{len(self.verdict.unused)} kinds of parameters have no part in the loss"] * bool(
            self.verdict.unused
        )
        return f"| {self.family} | {words[self.verdict.how]} | {'; '.join(notes)} |"


def families() -> list[str]:
    """All that Transformers has a decoder for."""
    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - NO_DECODERS)


def verdict_of_family(family: str) -> Verdict:
    """How the default configuration of a family is run."""
    try:
        config = CONFIG_MAPPING[family](**LEFT_OPEN.get(family, {}))
    except Exception as error:  # defaults of a class that contradict each other
        return Verdict(REFUSED, f"its default configuration cannot be made: {str(error).splitlines()[0][:120]}")
    return verdict_of(config)


def page(rows: Iterable[Row]) -> str:
    """The manual's page."""
    return "\n".join([*_head(), *map(str, rows), ""])


def _head() -> list[str]:
    return HEAD.format(version=transformers.__version__).splitlines()


HEAD = """# Architectures

How each family of Transformers {version} is trained, found out by running a tiny model of its default
configuration (`python -m trainer.model.inspection.architectures docs/architectures.md` writes this page). The same is
done with a job's own configuration when it is prepared, and counts for it; the answer is remembered in
`~/.cache/tuneyard/models` (`TUNEYARD_CACHE` names another folder).

- **packed**: conversations lie end to end in one row. Loss and gradient are those of each alone, and of
  Transformers' own forward pass and loss.
- **alone**: something in the layers runs over the borders between conversations, or knows no attention but its own:
  each conversation has a row to itself (`model.attention: own`, `data.packing: false`).
- **refused**: the loss would not be Transformers' own, the model sees later tokens, or it cannot be run here; the
  reason is given.

Encoders and parts of encoder-decoders are refused and not listed. `tuneyard plan`, `estimate` and `advise` say the same
from a table (`trainer/capabilities.py`), which a test holds against this page; what a configuration changes about its
family is found out when the run is prepared.

| model_type | how | why, and what is not trained |
|---|---|---|"""


def main() -> None:
    """Write the page to the file that is named."""
    transformers.logging.set_verbosity_error()
    rows = [Row(family, verdict_of_family(family)) for family in families()]
    Path(sys.argv[1]).write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
