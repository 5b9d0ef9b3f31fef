"""Answers held-out prompts with the finished model and scores them: exact match and contains, by tag."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.config import TrainerConfig
from trainer.data.chat_template.tokenizer import load_tokenizer, make_renderer
from trainer.data.prompts import Prompt, read_prompts
from trainer.errors import UserError
from trainer.runtime.files import write_json_atomic
from trainer.runtime.phase_progress import counting

BATCH = 32
EXAMPLES_PER_TAG = 2  # of each kind: wrong ones, and right ones


def evaluate_prompts(
    config: TrainerConfig, *, model_dir: Path, prompts_file: Path, output: Path, counted_in: Path | None = None
) -> dict[str, Any]:
    """Answer every prompt greedily, score, and write the result to `output`; `counted_in` is told how many are done.

    Raises:
        UserError: the model or the prompts cannot be read.
    """
    prompts = read_prompts(prompts_file)
    model, tokenizer = load_exported(config, model_dir)
    renderer = make_renderer(tokenizer, config.model, config.data)
    longest_first = sorted(prompts, key=lambda p: -len(str(p.conversation.messages)))
    answers: list[tuple[Prompt, str]] = []
    with counting(counted_in, "answering", len(prompts), "prompts") as counter:
        for start in range(0, len(prompts), BATCH):
            batch = longest_first[start : start + BATCH]
            texts = [renderer.prompt(prompt.conversation) for prompt in batch]
            written = _answers(model, tokenizer, texts, renderer.ends.ids, config.evaluation.max_new_tokens)
            answers += zip(batch, written, strict=True)
            counter.at(len(answers))
    result = _scored(answers)
    write_json_atomic(output, result)
    return result


def load_exported(config: TrainerConfig, model_dir: Path) -> tuple[Any, Any]:
    """An exported model, or an adapter with its base, and the tokenizer beside it, ready to answer."""
    from trainer.model.loading.weights import load_complete

    if not (model_dir / "config.json").exists() and not (model_dir / "adapter_config.json").exists():
        raise UserError(f"no exported model in {model_dir}", remedy="run `tuneyard export` first")
    # an adapter brings its base along
    if config.model.added_tokens and (model_dir / "adapter_config.json").exists():
        model: Any = _with_adapter(config, model_dir)  # Transformers does not give the base the adapter's rows
    else:
        model = load_complete(str(model_dir), dtype="auto")
    tokenizer = load_tokenizer(config.model.model_copy(update={"path": str(model_dir), "revision": None}))
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(config.execution.device).eval(), tokenizer


def _with_adapter(config: TrainerConfig, folder: Path) -> Any:
    from peft import PeftModel

    from trainer.model.loading.vocabulary import load_base

    return PeftModel.from_pretrained(load_base(config.model), folder)


@torch.inference_mode()
def _answers(model: Any, tokenizer: Any, texts: list[str], stop_ids: list[int], max_new_tokens: int) -> Iterator[str]:
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
    written = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stop_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
    new = written[:, inputs["input_ids"].shape[1] :]
    return iter(text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True))


def _scored(answers: list[tuple[Prompt, str]]) -> dict[str, Any]:
    by_tag: dict[str, list[tuple[Prompt, str]]] = defaultdict(list)
    for prompt, answer in answers:
        by_tag[prompt.tag].append((prompt, answer))
    examples = [_example(p, a) for tag in sorted(by_tag) for p, a in _most_telling(by_tag[tag])]
    return {**_rates(answers), "by_tag": {tag: _rates(by_tag[tag]) for tag in sorted(by_tag)}, "examples": examples}


def _rates(answers: list[tuple[Prompt, str]]) -> dict[str, Any]:
    exact = sum(answer == prompt.answer.strip() for prompt, answer in answers)
    contains = sum(prompt.answer.strip() in answer for prompt, answer in answers)
    empty = sum(not answer for _, answer in answers)
    count = len(answers)
    return {"prompts": count, "exact_match": exact / count, "contains": contains / count, "empty": empty}


def _most_telling(answers: list[tuple[Prompt, str]]) -> list[tuple[Prompt, str]]:
    """Some wrong answers, then some right ones."""
    right = [pair for pair in answers if pair[1] == pair[0].answer.strip()]
    wrong = [pair for pair in answers if pair[1] != pair[0].answer.strip()]
    return wrong[:EXAMPLES_PER_TAG] + right[:EXAMPLES_PER_TAG]


def _example(prompt: Prompt, answer: str) -> dict[str, Any]:
    return {
        "tag": prompt.tag,
        "prompt": prompt.conversation.messages,
        "expected": prompt.answer,
        "answer": answer,
        "exact_match": answer == prompt.answer.strip(),
    }
