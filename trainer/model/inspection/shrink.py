"""A configuration made tiny: few layers of every kind, narrow, of few words, and with every switch as it is.

What decides how a model computes stays: soft caps, multipliers, biases, ties, the pattern of its layers. What only
decides how much becomes small, and lengths shrink together, so that a dozen tokens reach beyond windows and beyond
the length that rotary positions were made for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

WORDS, WIDTH, HEAD, HEADS, POSITIONS = 96, 64, 16, 4, 64
WINDOW, ORIGINAL = 8, 16
"""Tokens that a window shows, and positions before rotary embeddings are stretched."""
MOST_LAYERS = 16
FIRST_WORD = 8
"""Token ids below are special tokens only."""

SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_dim", "lru_width", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), WORDS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads", "num_heads"), HEADS),
    **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads", "linear_num_heads"), HEADS),
    **dict.fromkeys(("head_dim", "swa_head_dim", "kv_channels", "linear_head_dim", "v_head_dim", "dim_head"), HEAD),
    **dict.fromkeys(("qk_nope_head_dim", "index_head_dim", "mamba_d_head", "mamba_head_dim", "mamba_headdim"), HEAD),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 2 * WIDTH // HEAD),
    **dict.fromkeys(("qk_rope_head_dim", "mamba_d_state", "state_size", "ssm_state_size", "rotary_dim"), 8),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("laurel_rank", "adapter_rank", "d_rel", "router_hidden_size", "index_topk", "rel_extent"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("time_step_rank", "mamba_dt_rank", "zero_expert_num"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k"), 2),
    **dict.fromkeys(("index_n_heads", "n_group", "n_groups", "mamba_n_groups", "mamba_ngroups", "o_groups"), 2),
    **dict.fromkeys(("linear_num_key_heads", "num_expert_group"), 2),
    **dict.fromkeys(("linear_num_value_heads",), 4),
    **dict.fromkeys(("topk_group",), 1),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "window_size", "attention_window_size"), WINDOW),
    **dict.fromkeys(("keep_window_size", "block_size", "index_block_size"), WINDOW),
    **dict.fromkeys(("floor_scale", "block_multiple_of", "ffn_round_up_to_multiple_of"), 8),
    **dict.fromkeys(("local_attention", "chunk_size", "mamba_chunk_size"), 2 * WINDOW),
    **dict.fromkeys(("original_max_position_embeddings",), ORIGINAL),
    **dict.fromkeys(("n_positions", "n_ctx", "max_seq_len", "context_length", "model_max_length"), POSITIONS),
}
"""Settings that become this, if they were more."""
INNER = re.compile(
    r"(intermediate|ffn|hidden|mlp)\w*_size(_mlp)?$|^(ffn_dim|n_inner|dff|dim_ff|d_ff|mamba_d_ssm|dim_model_base)$"
)
"""Widths that keep their ratio to the model's."""
DROPOUTS = re.compile(r"(drop|jitter)")
PERIODS = re.compile(r"(period|interval|every_n_layers|pattern|group_size|sparse_step|attn_layer_offset)$")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks")
IDS = re.compile(r"token_id$")


def shrunk(config: Any, narrow: bool = True) -> Any:
    """A tiny configuration of the same class.

    Args:
        narrow: make widths small, too, not only the number of layers and of words.

    Raises:
        Exception: the class refuses what came out; any architecture's own code runs in there.
    """
    return type(config).from_dict(_shrunk_values(config.to_dict(), config) if narrow else _shallow(config.to_dict()))


def _shallow(values: dict[str, Any]) -> dict[str, Any]:
    layers = _first(values, *LAYERS) or 2
    was = _Was(WIDTH, HEADS, layers, _layers_kept(values, layers), values)
    found = dict(values)
    for name, value in values.items():
        if name in LAYERS:
            found[name] = was.kept
        elif isinstance(value, list) and len(value) == layers:
            found[name] = value[: was.kept]
        elif name == "vocab_size" or IDS.search(name) or isinstance(value, float):
            found[name] = _small(name, value, was)
    return found


def _shrunk_values(values: dict[str, Any], config: Any) -> dict[str, Any]:
    width = _first(values, "hidden_size", "n_embd", "d_model") or WIDTH
    heads = _first(values, "num_attention_heads", "n_head", "n_heads") or HEADS
    layers = _first(values, *LAYERS) or 2
    kept = _layers_kept(values, layers)
    parts = getattr(config, "sub_configs", None) or {}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in parts and isinstance(value, dict):
            found[name] = _shrunk_values(value, getattr(config, name))
        elif name in LAYERS:
            found[name] = kept
        elif name == "per_layer_config" and isinstance(value, Mapping):
            found[name] = _shrunk_layers(value, values, kept)
        else:
            found[name] = _small(name, value, _Was(width, heads, layers, kept, values))
    _agree(found, values)
    return found


def _shrunk_layers(layers: Mapping[Any, Any], values: Mapping[str, Any], kept: int) -> dict[Any, Any]:
    """What single layers have otherwise, in the same ratio to what the others have."""
    found: dict[Any, Any] = {}
    for number, own in layers.items():
        if int(number) < kept:
            found[number] = {
                n: v * SMALL[n] // values[n] if n in SMALL and values.get(n) else v for n, v in own.items()
            }
    return found


class _Was:
    """Sizes before, and how many layers stay."""

    def __init__(self, width: int, heads: int, layers: int, kept: int, values: Mapping[str, Any]) -> None:
        self.width, self.heads, self.layers, self.kept = width, heads, layers, kept
        self.head = _first(values, "head_dim") or width // heads
        self.new_width, self.new_heads = min(width, WIDTH), min(heads, HEADS)
        self.new_head = min(self.head, HEAD) if _first(values, "head_dim") else self.new_width // self.new_heads


def _small(name: str, value: Any, was: _Was) -> Any:
    if IDS.search(name):
        return _small_id(value)
    if DROPOUTS.search(name) and isinstance(value, float):
        return 0.0
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return _small_number(name, value, was)
    if isinstance(value, list) and len(value) == was.layers:
        return [_small(name, entry, was) for entry in value[: was.kept]]
    if name in ("rope_parameters", "rope_scaling") and isinstance(value, Mapping):
        return _small_rope(dict(value), was)
    return value


def _small_number(name: str, value: int, was: _Was) -> int:
    if name in ("num_key_value_heads", "num_kv_heads", "kv_n_heads"):
        return was.new_heads if value == was.heads else min(value, 2)
    if name == "attention_hidden_size" or INNER.search(name):
        return (
            max(8, min(value, -(-value * was.new_width // was.width // 8) * 8))
            if name not in SMALL
            else min(value, SMALL[name])
        )
    if name == "attention_head_dim":
        return value * was.new_head // max(1, was.width // was.heads)
    if name == "query_pre_attn_scalar":
        return was.new_head
    return min(value, SMALL[name]) if name in SMALL else value


def _small_id(value: Any) -> Any:
    """Special tokens among the first words, where no token of ours is."""
    if isinstance(value, list):
        return [_small_id(entry) for entry in value]
    return value % FIRST_WORD if isinstance(value, int) else value


def _small_rope(rope: dict[str, Any], was: _Was) -> dict[str, Any]:
    for name, value in rope.items():
        if isinstance(value, Mapping):
            rope[name] = _small_rope(dict(value), was)
        elif name == "original_max_position_embeddings" and value:
            rope[name] = min(value, ORIGINAL)
        elif name in ("long_factor", "short_factor") and value:
            count = max(1, len(value) * was.new_head // was.head)
            rope[name] = [value[at * len(value) // count] for at in range(count)]
    return rope


def _layers_kept(values: dict[str, Any], layers: int) -> int:
    """As few of the first layers as show every kind that there is."""
    lists = [value for value in values.values() if isinstance(value, list) and len(value) == layers]
    single = {int(number): own for number, own in (values.get("per_layer_config") or {}).items()}
    kinds = [repr([[entries[at] for entries in lists], single.get(at)]) for at in range(layers)]
    covered = max((kinds.index(kind) for kind in set(kinds)), default=0) + 1
    if str(values.get("model_type")).startswith("zamba"):  # blocks that are shared have to come twice
        covered = [at for at, kind in enumerate(kinds) if kind == kinds[covered - 1]][:2][-1] + 1
    periods = [value + 1 for name, value in values.items() if PERIODS.search(name) and type(value) is int]
    dense = [value + 1 for name, value in values.items() if name == "first_k_dense_replace" and type(value) is int]
    return min(layers, max(2, covered, *periods, *dense), MOST_LAYERS)


def _agree(found: dict[str, Any], values: Mapping[str, Any]) -> None:
    """What has to fit together."""
    _fit_positions(found)
    if found.get("layer_types") and found.get("num_kv_shared_layers"):
        found["num_kv_shared_layers"] = len(found["layer_types"]) // 2
    if found.get("qk_rope_head_dim") and found.get("qk_nope_head_dim"):
        rope, whole = found["qk_rope_head_dim"], found["qk_rope_head_dim"] + found["qk_nope_head_dim"]
        was = values["qk_rope_head_dim"]
        for name in ("head_dim", "qk_head_dim"):
            if found.get(name):
                found[name] = rope if values[name] == was else whole
    if "linear_num_value_heads" in found and values["linear_num_value_heads"] == values["linear_num_key_heads"]:
        found["linear_num_value_heads"] = found["linear_num_key_heads"]
    if found.get("mamba_d_ssm"):
        found["mamba_d_ssm"] = found["mamba_n_heads"] * found["mamba_d_head"]
    if found.get("model_type") == "mamba2":
        found["num_heads"] = found["expand"] * found["hidden_size"] // found["head_dim"]


def _fit_positions(found: dict[str, Any]) -> None:
    """Positions that are stretched go as far beyond the original ones as before."""
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    kinds = [part for part in (rope, *rope.values()) if isinstance(part, Mapping)]
    dynamic = any(part.get("rope_type") == "dynamic" for part in kinds)
    stretch = max((float(part.get("factor") or 1) for part in kinds), default=1.0)
    stretched = any(part.get("rope_type", "default") not in ("default", "dynamic") for part in kinds)
    longest = ORIGINAL if dynamic else math.ceil(ORIGINAL * stretch) if stretched else POSITIONS
    for name in ("max_position_embeddings", "seq_length"):
        if isinstance(found.get(name), int):
            found[name] = min(found[name], longest)


def _first(values: Mapping[str, Any], *names: str) -> int:
    found = (values.get(name) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), 0)
