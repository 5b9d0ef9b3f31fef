"""Whatever the architecture: a pack's loss and gradient are those of its conversations alone, and Transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import tiny
from trainer.config import TrainerConfig
from trainer.errors import UserError

pytestmark = pytest.mark.models

LENGTHS = (40, 96, 23, 70)
LINEAR = {
    "head_dim": 16,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROPE = {"rope_theta": 10000.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, **ROPE}
SSM = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear attention": ("qwen3_5_text", LINEAR),
    "its own attention": ("bloom", {"n_layer": 2, "n_head": 4}),
    "its own attention, rotary": ("codegen", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8}),
    "its own attention, learned positions": (
        "xglm",
        {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 4, **NO_DROPOUT},
    ),
    "longrope": ("phi3", {"original_max_position_embeddings": 64, "rope_parameters": LONGROPE}),
    "dynamic": (
        "llama",
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "factor on the logits": ("falcon_h1", {**SSM, "lm_head_multiplier": 0.25, "embedding_multiplier": 2.0}),
    "bound of the logits": (
        "recurrent_gemma",
        {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64, "logits_soft_cap": 5.0},
    ),
    "router's loss": ("mixtral", {**EXPERTS, "output_router_logits": True, "router_aux_loss_coef": 0.5}),
    "router's loss, linear attention": (
        "qwen3_5_moe_text",
        {
            **LINEAR,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "output_router_logits": True,
            "router_aux_loss_coef": 0.5,
        },
    ),
}


def make(folder: Path, family: str, changes: dict[str, Any]) -> Path:
    """A tiny model with weights large enough that what a token sees shows."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.model.inspection.twin import _spread_weights

    tiny.make_model(folder, family, **changes)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    _spread_weights(model)
    model.save_pretrained(folder)
    return folder


def build(folder: Path, **changes: Any) -> Any:
    from trainer.model.build import build_model

    raw = tiny.trainer_config(folder, folder / "rows.jsonl", **changes)
    return build_model(TrainerConfig.model_validate(raw)).train()


def batch(lengths: tuple[int, ...]) -> Any:
    """Conversations of so many tokens, the same for the same length, their second half supervised."""
    from trainer.data.pack.batch import _assemble

    tokens = [np.random.default_rng(length).integers(20, 250, length) for length in lengths]
    masks = [(np.arange(length) >= length // 2).astype(np.uint8) for length in lengths]
    return _assemble(tokens, masks, [1.0] * len(lengths))


def seen(model: Any, *batches: Any) -> tuple[list[float], Any]:
    """Losses, and the gradient of their sum."""
    import torch

    model.zero_grad()
    losses = []
    for one in batches:
        loss = model(one)
        loss.backward()
        losses.append(float(loss.detach()))
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return losses, torch.cat([gradient.flatten() for gradient in gradients])


def transformers_own(folder: Path, length: int) -> float:
    """Loss of a conversation in a model that has seen no other."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    one = batch((length,))
    labels = torch.full_like(one.input_ids, -100)
    labels[0, one.target_index + 1] = one.target_ids
    with torch.no_grad():
        return float(model(input_ids=one.input_ids, labels=labels, use_cache=False).loss) * one.supervised


@pytest.mark.parametrize("case", MODELS)
def test_a_pack_is_the_sum_of_its_conversations_and_those_are_transformers_own(tmp_path: Path, case: str) -> None:
    folder = make(tmp_path / "model", *MODELS[case])
    model = build(folder)
    together, packed = seen(model, batch(LENGTHS))
    alone, single = seen(model, *(batch((length,)) for length in LENGTHS))
    assert together[0] == pytest.approx(sum(alone), rel=2e-6)
    assert float((packed - single).norm() / single.norm()) < 1e-5
    assert alone == pytest.approx([transformers_own(folder, length) for length in LENGTHS], rel=2e-6)


@pytest.mark.parametrize("case", [case for case in MODELS if "attention" in case])
def test_what_follows_does_not_show_in_what_comes_before(tmp_path: Path, case: str) -> None:
    import torch

    model = build(make(tmp_path / "model", *MODELS[case])).eval()
    before, after = batch((60,)), batch((60,))
    after.input_ids = after.input_ids.clone()
    after.input_ids[0, 45:] = 7
    with torch.no_grad():
        losses = []
        for one in (before, after):
            kept = one.target_index < 40
            one.target_index, one.target_ids = one.target_index[kept], one.target_ids[kept]
            one.target_weights = one.target_weights[kept]
            losses.append(float(model(one, plain=True)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("case", ["longrope", "dynamic"])
def test_rows_side_by_side_have_their_own_rotary_frequencies_too(tmp_path: Path, case: str) -> None:
    folder = make(tmp_path / "model", *MODELS[case])
    packed, own = build(folder), build(folder, model={"attention": "own"})
    together = seen(own, batch(LENGTHS))[0]
    assert together == pytest.approx(seen(packed, batch(LENGTHS))[0], rel=2e-6)
    assert sum(seen(own, *(batch((length,)) for length in LENGTHS))[0]) == pytest.approx(together[0], rel=2e-6)


def test_the_routers_loss_can_be_switched_and_is_measured_apart(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", *MODELS["router's loss"])
    losses = {}
    for name, settings in {
        "on": {},
        "off": {"output_router_logits": False},
        "no weight": {"router_aux_loss_coef": 0.0},
        "double": {"router_aux_loss_coef": 1.0},
    }.items():
        model = build(folder, loss=settings)
        losses[name] = float(model(batch(LENGTHS)).detach())
        balance = model.take_balance()
        assert (balance is None) == (name in ("off", "no weight"))
        assert model.take_balance() is None
        if balance is not None:
            coefficient = {"on": 0.5, "double": 1.0}[name]
            assert losses[name] - coefficient * float(balance) == pytest.approx(
                float(model(batch(LENGTHS), plain=True))
            )
    assert losses["off"] == losses["no weight"]
    assert losses["double"] - losses["on"] == pytest.approx(losses["on"] - losses["off"], rel=1e-4)


def test_a_model_without_a_router_cannot_be_asked_for_its_loss(tmp_path: Path) -> None:
    folder = tiny.make_model(tmp_path / "model")
    with pytest.raises(UserError, match="no router"):
        build(folder, loss={"output_router_logits": True})


def test_the_routers_loss_is_the_same_with_recomputation_and_of_nothing_without_tokens(tmp_path: Path) -> None:
    from trainer.data.pack.batch import _assemble

    folder = make(tmp_path / "model", *MODELS["router's loss"])
    plain, recomputing = build(folder), build(folder, training={"gradient_checkpointing": True})
    for one in (plain, recomputing):
        one.take_balance()
    (a, gradient), (b, again) = seen(plain, batch(LENGTHS)), seen(recomputing, batch(LENGTHS))
    assert a == pytest.approx(b, rel=1e-6)
    assert float((gradient - again).norm() / gradient.norm()) < 1e-5
    plain.take_balance()
    idle = _assemble([np.zeros(1, np.int64)], [np.zeros(1, np.uint8)], [0.0])
    assert float(plain(idle).detach()) == 0.0
    assert float(plain.take_balance()) == 0.0


def test_parameters_that_no_loss_depends_on_are_not_trained(tmp_path: Path) -> None:
    folder = tiny.make_model(
        tmp_path / "model", "ernie4_5_moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=16, head_dim=8
    )
    model = build(folder)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert all("e_score_correction_bias" in name for name in frozen)
    seen(model, batch(LENGTHS))
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_residuals_that_stay_in_float32_reach_an_output_layer_in_bfloat16(tmp_path: Path) -> None:
    folder = make(tmp_path / "model", "mamba", {"state_size": 8, "time_step_rank": 4, "residual_in_fp32": True})
    full, half = build(folder), build(folder, model={"dtype": "bfloat16"}, execution={"engine": "zero0"})
    assert seen(half, batch(LENGTHS))[0] == pytest.approx(seen(full, batch(LENGTHS))[0], rel=0.02)


@pytest.mark.parametrize("asked", [("flash", "sinks"), ("varlen", "sinks"), ("varlen", "softcap")])
def test_a_kernel_that_lacks_what_a_layer_asks_for_says_so(asked: tuple[str, str]) -> None:
    import torch

    from trainer.model.attention.kernels import PackedBatchInfo
    from trainer.model.attention.packed_attention import attend

    backend, what = asked
    heads, packed = torch.zeros(1, 4, 5, 16), PackedBatchInfo(backend, batch((5,)))
    extras: dict[str, Any] = {"s_aux": torch.zeros(4)} if what == "sinks" else {"softcap": 2.0}
    with pytest.raises(UserError, match=backend):
        attend(torch.nn.Identity(), heads, heads, heads, packed=packed, **extras)


def test_what_layers_ask_of_kernels_is_known_before_a_gpu_is_asked_for(tmp_path: Path) -> None:
    from trainer.__main__ import _refuse_unfit
    from trainer.model.inspection.examine import how_to_run

    folder = tiny.make_model(tmp_path / "model", "gemma2", head_dim=16, attn_logit_softcapping=2.0)
    config = TrainerConfig.model_validate(tiny.trainer_config(folder, folder / "rows.jsonl"))
    found = how_to_run(config.model).as_json()
    assert found["asked"] == ["softcap"]
    for backend, taken in (("varlen", False), ("flash", True), ("flex", True)):
        there = config.model_copy(update={"model": config.model.model_copy(update={"attention": backend})})
        if taken:
            _refuse_unfit(there, found)
        else:
            with pytest.raises(UserError, match=f"{backend}. has no bound on scores"):
                _refuse_unfit(there, found)


def test_looking_leaves_every_generator_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoConfig

    from trainer.model.inspection.twin import verdict_of

    seeded: list[int] = []
    config = AutoConfig.from_pretrained(tiny.make_model(tmp_path / "model"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    verdict_of(config)
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("modernbert-decoder", {"local_attention": 16, "bos_token_id": 0}, "not Transformers' own"),
        ("bert", {"is_decoder": False}, "not Transformers' own|comes after"),
    ],
)
def test_a_model_whose_loss_is_not_known_is_refused_by_name(
    tmp_path: Path, family: str, changes: dict[str, Any], reason: str
) -> None:
    from trainer.model.inspection.examine import how_to_run

    folder = tiny.make_model(tmp_path / "model", family, **changes)
    config = TrainerConfig.model_validate(tiny.trainer_config(folder, tmp_path / "rows.jsonl"))
    with pytest.raises(UserError, match=reason):
        how_to_run(config.model)


def test_what_was_found_out_is_remembered_until_the_configuration_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trainer.model.inspection.examine as examine

    monkeypatch.setenv("TUNEYARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(examine, "_found", {})
    looked = []
    real = examine.verdict_of
    monkeypatch.setattr(examine, "verdict_of", lambda *given: looked.append(given) or real(*given))
    for number, changes in enumerate(({}, {}, {"attention_bias": True})):
        folder = tiny.make_model(tmp_path / f"model-{number}", **changes)
        config = TrainerConfig.model_validate(tiny.trainer_config(folder, tmp_path / "rows.jsonl"))
        assert examine.how_to_run(config.model).how == "packed"
    assert len(looked) == 2
    examine._found.clear()
    for file in (tmp_path / "cache").rglob("*.json"):
        file.write_text("{")  # damaged
    assert examine.how_to_run(config.model).how == "packed"
    assert len(looked) == 3
