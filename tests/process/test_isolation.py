"""A pack's loss is the sum of its conversations' losses, each run alone, whatever attention runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import tiny
from tests.support.ranks import run_on_ranks

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 24},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "phi3": {"sliding_window": 24},
}
CPU_BACKENDS = ("sdpa", "padded")


def losses(model_dir: str, rows: str, backend: str, checkpointing: bool) -> dict[str, Any]:
    """Loss and gradient of packs of 1 to 6 conversations, packed and alone; and Transformers' own loss."""
    import torch
    from transformers import AutoModelForCausalLM

    from trainer.config import TrainerConfig
    from trainer.data.pack.batch import Reduction, collate
    from trainer.data.shards.token_store import TokenStore
    from trainer.model.build import build_model

    config = TrainerConfig.model_validate(
        tiny.trainer_config(
            Path(model_dir),
            Path(rows),
            model={"attention": "padded"},
            loss={"chunk_tokens": 7},
            training={"gradient_checkpointing": checkpointing},
        )
    )
    run = Path(rows).parent / f"run-{Path(model_dir).name}-{backend}-{checkpointing}"
    tiny.make_run(run, config.model_dump(mode="json"))
    from trainer.data.prepare import prepare

    prepare(run, config, lambda _: None)
    store = TokenStore(run / "data" / "train")
    model = build_model(config).train()
    model._backend = backend  # FlexAttention has no backward pass on the CPU, so a job may not ask for it there
    model.requires_grad_(backend != "flex")
    reduction = Reduction(store, "token")

    def gradient(numbers: list[int]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss = model(collate(store, numbers, reduction))
        if loss.requires_grad:
            loss.backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return float(loss.detach()), torch.cat(grads or [torch.ones(1)])

    reference = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")

    def alone(number: int) -> float:
        tokens, mask = store.conversation(number)
        ids = torch.from_numpy(tokens.astype("int64"))[None]
        labels = torch.where(torch.from_numpy(mask.astype(bool))[None], ids, -100)
        with torch.no_grad():
            return float(reference(input_ids=ids, labels=labels).loss) * int(store.rows["targets"][number])

    found = []
    for count in (1, 2, 6):
        numbers = list(range(count))
        packed, packed_grad = gradient(numbers)
        single = [gradient([n]) for n in numbers]
        grads = torch.stack([g for _, g in single]).sum(0)
        difference = float((packed_grad - grads).norm() / grads.norm())
        found.append([packed, sum(loss for loss, _ in single), sum(alone(n) for n in numbers), difference])
    return {"cases": found, "targets": [int(t) for t in store.rows["targets"][:6]]}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_rows(tmp_path_factory.mktemp("isolation") / "rows.jsonl", 20)


@pytest.fixture(scope="module")
def models(rows: Path) -> dict[str, Path]:
    return {family: tiny.make_model(rows.parent / family, family, **shape) for family, shape in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_packed_equals_alone(models: dict[str, Path], rows: Path, family: str, backend: str) -> None:
    (answer,) = run_on_ranks(losses, 1, str(models[family]), str(rows), backend, False, distributed=False)
    for packed, alone, transformers, difference in answer["cases"]:
        assert packed == pytest.approx(alone, rel=1e-5)
        assert packed == pytest.approx(transformers, rel=1e-5)
        assert difference <= 1e-5


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma"])
def test_packed_equals_alone_in_flex_attention(models: dict[str, Path], rows: Path, family: str) -> None:
    (answer,) = run_on_ranks(losses, 1, str(models[family]), str(rows), "flex", False, distributed=False)
    for packed, alone, transformers, _ in answer["cases"]:
        assert packed == pytest.approx(alone, rel=1e-5)
        assert packed == pytest.approx(transformers, rel=1e-5)


def test_packed_equals_alone_with_gradient_checkpointing(models: dict[str, Path], rows: Path) -> None:
    (answer,) = run_on_ranks(losses, 1, str(models["llama"]), str(rows), "padded", True, distributed=False)
    for packed, alone, _, difference in answer["cases"]:
        assert packed == pytest.approx(alone, rel=1e-5)
        assert difference <= 1e-5
