"""A small model folder and a good job file, for tests to spoil."""

from __future__ import annotations

import json
from pathlib import Path

TINY_MODEL = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 2048,
    "tie_word_embeddings": True,
}

GOOD_JOB = """\
name: quick
model: {path: model}
data:
  train: [{path: train.jsonl}]
  max_length: 512
training: {tokens_per_step: 8192}
resources: {gpu: none, cpu_ranks: 2}
"""


def write_model(folder: Path, **changes: object) -> Path:
    """A model folder that a login node takes for one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY_MODEL | changes))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_tokenizer(folder: Path) -> None:
    """The smallest tokenizer that renders a chat."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "a": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + eos_token }}{% endfor %}"
    tokenizer.save_pretrained(folder)
