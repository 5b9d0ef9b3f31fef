"""The dimensions of a model by one name each, whatever its configuration calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.errors import JobError


@dataclass(frozen=True, kw_only=True)
class Widths:
    """The dimensions that every configuration settles, under one name each."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    config: dict[str, Any]

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv(self) -> int:
        """Width of all key heads."""
        return self.kv_heads * self.head_dim

    def setting(self, key: str, default: Any = None) -> Any:
        """A key of the configuration, under any of its names; null counts as absent."""
        names = next((group for group in SYNONYMS if key in group), (key,))
        values = (self.config.get(name) for name in (key, *names))
        return next((value for value in values if value is not None), default)

    def count(self, key: str) -> int:
        """A whole number that the family cannot do without.

        Raises:
            JobError: the configuration does not have it.
        """
        value = self.setting(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            kind = self.config.get("model_type")
            raise JobError(f"`{key}` of a {kind} must be a whole number (got {value!r})", "Download the model again.")
        return value


SYNONYMS = (
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k"),
    ("moe_intermediate_size", "expert_intermediate_size"),
    ("n_shared_experts", "num_shared_experts"),
)
"""Names of one setting: releases of Transformers write others than those before, and read them all."""
