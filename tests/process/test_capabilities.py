"""What the table of architectures says, held against the models: trained as it says, each equals Transformers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.ranks import run_on_ranks

GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
LATENT: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_key_value_heads": 4,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "gpt_oss": {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "deepseek_v3": LATENT,
    "gpt2": GPT,
    "stablelm": {},
    "nemotron": {},
    "gptj": {**GPT, "rotary_dim": 8},
    "falcon": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512, "expansion_ratio": 2},
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 4},
    "llama4_text": {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 8},
}


def differences(model_dir: str, rows: str) -> dict[str, Any]:
    """Per backend that the table offers on a CPU: how far the packed loss and gradient are from those of each alone."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.capabilities import Device, usable, why_unpacked
    from trainer.config import TrainerConfig
    from trainer.data.pack.batch import _assemble
    from trainer.model.attention.packed_attention import silence_dropout
    from trainer.model.build import build_model

    config = json.loads((Path(model_dir) / "config.json").read_text())
    reference = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager").train()
    silence_dropout(reference)
    for module in reference.modules():
        module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
    tokens = [torch.randint(5, 90, (n,), generator=torch.Generator().manual_seed(n)) for n in (7, 12, 5)]

    def alone(ids: torch.Tensor) -> torch.Tensor:
        logits = reference(input_ids=ids[None], use_cache=False).logits[0].float()
        return torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum")

    def gradient(model: Any) -> torch.Tensor:
        named = {n.removeprefix("causal_lm."): p for n, p in model.named_parameters() if p.requires_grad}
        return torch.cat([p.grad.flatten() for _, p in sorted(named.items()) if p.grad is not None])

    wanted = sum(alone(ids) for ids in tokens)
    wanted.backward()
    batch = _assemble([ids.numpy() for ids in tokens], [torch.ones(len(ids)).numpy() for ids in tokens], [1.0] * 3)
    found: dict[str, Any] = {"own only": bool(why_unpacked(config, 512))}
    for backend in usable(config, Device(kind="cpu", dtype="float32"), 512):
        settings = tiny.trainer_config(Path(model_dir), Path(rows), model={"attention": backend})
        model = build_model(TrainerConfig.model_validate(settings)).train()
        for module in model.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
        loss = model(batch)
        loss.backward()
        grads = gradient(model), gradient(reference)
        found[backend] = [
            abs(float(loss - wanted)) / float(wanted),
            float((grads[0] - grads[1]).norm() / grads[1].norm()),
        ]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_as_the_table_says_equals_transformers_alone(family: str, tmp_path: Path) -> None:
    model = tiny.make_model(tmp_path / family, family, **FAMILIES[family])
    (found,) = run_on_ranks(differences, 1, str(model), str(tmp_path / "none.jsonl"), distributed=False)
    own_only = found.pop("own only")
    assert list(found) == (["own"] if own_only else ["padded", "sdpa", "own"])
    for loss, gradient in found.values():
        assert loss < 1e-5
        assert gradient < 1e-5


def kernels(capped: bool, with_sinks: bool, value_size: int) -> list[float]:
    """FlexAttention's output against the dense one's, with scores of every kind."""
    import torch

    from trainer.data.pack.batch import _assemble
    from trainer.model.attention.kernels import PackedBatchInfo
    from trainer.model.attention.packed_attention import attend

    draw = torch.Generator().manual_seed(0)
    lengths = [5, 30, 1, 12]
    batch = _assemble(
        [torch.zeros(n).long().numpy() for n in lengths], [torch.ones(n).numpy() for n in lengths], [1.0] * 4
    )
    q, k = torch.randn(1, 4, 48, 16, generator=draw), torch.randn(1, 2, 48, 16, generator=draw)
    v, sinks = torch.randn(1, 2, 48, value_size, generator=draw), torch.randn(4, generator=draw)
    scores = {"softcap": 2.0 if capped else None, "s_aux": sinks if with_sinks else None, "sliding_window": 8}
    out = {
        name: attend(torch.nn.Identity(), q, k, v, packed=PackedBatchInfo(name, batch), **scores)[0]
        for name in ("flex", "sdpa", "padded")
    }
    return [float((out[name] - out["sdpa"]).abs().max()) for name in ("flex", "padded")]


@pytest.mark.parametrize(
    ("capped", "with_sinks", "value_size"), [(True, False, 16), (False, True, 16), (True, True, 8)]
)
def test_every_kernel_scores_alike(capped: bool, with_sinks: bool, value_size: int) -> None:
    (found,) = run_on_ranks(kernels, 1, capped, with_sinks, value_size, distributed=False)
    assert max(found) < 1e-5


def embedding_gradients(model_dir: str, rows: str) -> dict[str, float]:
    """How much each adapter of the embeddings would change in a first step."""
    import torch

    from trainer.config import TrainerConfig
    from trainer.data.pack.batch import _assemble
    from trainer.model.build import build_model
    from trainer.model.supervised import trainable_parameters

    method = {"kind": "lora", "r": 4, "target_modules": ["q_proj", "embed_tokens"]}
    model = build_model(TrainerConfig.model_validate(tiny.trainer_config(Path(model_dir), Path(rows), method=method)))
    ids = torch.arange(5, 30)
    model.train()(_assemble([ids.numpy()], [torch.ones(25).numpy()], [1.0])).backward()
    return {
        name: float(p.grad.norm())
        for name, p in trainable_parameters(model)
        if "embedding" in name and p.grad is not None
    }


def test_adapters_of_embeddings_learn(tmp_path: Path) -> None:
    model = tiny.make_model(tmp_path / "model")
    (found,) = run_on_ranks(embedding_gradients, 1, str(model), str(tmp_path / "none.jsonl"), distributed=False)
    assert len(found) == 2
    assert max(found.values()) > 0
