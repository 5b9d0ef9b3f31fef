"""Small real things to test on: a byte-level tokenizer, models of several families, conversations, jobs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

CHATML = (Path(__file__).parents[2] / "trainer" / "data" / "chat_template" / "templates" / "chatml.jinja").read_text(
    encoding="utf-8"
)
WORDS = [
    "red",
    "blue",
    "green",
    "one",
    "two",
    "three",
    "cat",
    "dog",
    "bird",
    "runs",
    "sleeps",
    "eats",
    "under",
    "over",
    "the",
    "a",
    "small",
    "large",
]


def make_tokenizer(folder: Path, *, template: str | None = CHATML) -> Any:
    """A byte-level tokenizer of 256 bytes and three special tokens, saved in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A model of two small layers with random weights, and its tokenizer, in Hugging Face layout."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(folder)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        **changes,
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape), dtype=torch.float32)
    for name, parameter in model.named_parameters():  # break the symmetry of fresh norms and biases
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.1)
    model.save_pretrained(folder)
    return folder


def conversation(rng: random.Random, turns: int) -> dict[str, Any]:
    """A made-up conversation of `turns` exchanges."""
    messages = []
    for _ in range(turns):
        messages.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))})
        messages.append({"role": "assistant", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))})
    return {"messages": messages}


def write_rows(file: Path, count: int, seed: int = 0) -> Path:
    """JSON lines of made-up conversations."""
    rng = random.Random(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(conversation(rng, rng.randint(1, 2))) + "\n" for _ in range(count)))
    return file


def trainer_config(folder: Path, rows: Path, **changes: Any) -> dict[str, Any]:
    """A plan's `trainer` part; `changes` are merged into it section by section."""
    config: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(folder), "attention": "padded", "dtype": "float32"},
        "data": {"train": [{"path": str(rows)}], "max_length": 256},
        "training": {
            "tokens_per_step": 1024,
            "learning_rate": 1e-3,
            "gradient_checkpointing": False,
            "num_train_epochs": 1,
            "full_determinism": True,
        },
        "checkpoint": {"every_minutes": None, "every_steps": 4},
        "execution": {
            "engine": "fsdp2",
            "device": "cpu",
            "world_size": 1,
            "packs_per_step": 4,
            "micro_batch": 1,
            "accumulation": 4,
        },
    }
    for section, values in changes.items():
        config[section] = {**config.get(section, {}), **values}
    return config


def make_run(folder: Path, config: dict[str, Any]) -> Path:
    """A run directory that holds a plan and nothing else."""
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps({"trainer": config}))
    return folder
