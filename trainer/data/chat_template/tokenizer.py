"""The tokenizer of a model, and the chat template that its conversations are rendered with."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer

from trainer.config import DataConfig, ModelConfig
from trainer.data.chat_template.render import Renderer, TemplateRefusalError
from trainer.data.chat_template.stop_tokens import declared_stops
from trainer.data.conversation.formats import Conversation
from trainer.errors import UserError

TEMPLATES = Path(__file__).parent / "templates"
NEEDED = re.compile(r"\{#- tokens: (.*?)-#\}")


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's fast tokenizer.

    Raises:
        UserError: it cannot be loaded, or it has no character offsets.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except Exception as error:
        raise UserError(
            f"no tokenizer could be loaded from {model.path} ({type(error).__name__}: {error})",
            remedy="`model.path` needs tokenizer.json and tokenizer_config.json, or a hub name and its network",
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"{model.path} has no fast tokenizer", remedy="convert it: masks need character offsets")
    _add_tokens(tokenizer, model)
    return tokenizer


def _add_tokens(tokenizer: Any, model: ModelConfig) -> None:
    vocabulary = tokenizer.get_vocab()
    new = [token for token in model.added_tokens if token not in vocabulary]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in new], special_tokens=True)
    if model.eos_token is None:
        return
    if model.eos_token not in tokenizer.get_vocab():
        raise UserError(
            f"model.eos_token is {model.eos_token!r}, which the vocabulary does not have",
            remedy=f"add it: model.added_tokens: {json.dumps([*model.added_tokens, model.eos_token])}",
        )
    tokenizer.eos_token = model.eos_token


def added_ids(model: ModelConfig) -> list[int]:
    """Ids of `model.added_tokens` that the model's own vocabulary does not have."""
    if not model.added_tokens:
        return []
    before = load_tokenizer(model.model_copy(update={"added_tokens": [], "eos_token": None})).get_vocab()
    now = load_tokenizer(model).get_vocab()
    return sorted(now[token] for token in model.added_tokens if token not in before)


def make_renderer(tokenizer: Any, model: ModelConfig, data: DataConfig) -> Renderer:
    """The renderer of a job's conversations.

    Raises:
        UserError: there is no template, it is not known, or it is not for this tokenizer.
    """
    templates = chat_templates(tokenizer, data.chat_template)
    return Renderer(tokenizer, templates, declared_stops(model, tokenizer), data.chat_template_kwargs)


def chat_templates(tokenizer: Any, name: str | None) -> dict[str, str]:
    """Texts of the templates to render with: `default`, and `tool_use` where conversations with tools have their own.

    Args:
        name: None for the tokenizer's own, one of its named ones, one under `templates/`, or a `.jinja` file.
    """
    own = tokenizer.chat_template
    own = own if isinstance(own, dict) else {"default": own} if own else {}
    if name is None and own:
        return {"default": next(iter(own.values())), **own}
    if name is None:
        raise UserError("the tokenizer has no chat template", remedy=fitting_advice(tokenizer))
    if name in own and name != "default":
        return {"default": own[name]}
    path = Path(name) if name.endswith(".jinja") else TEMPLATES / f"{name}.jinja"
    if not path.is_file():
        remedy = f"known: {', '.join(built_in())}, or the path of a .jinja file"
        raise UserError(f"unknown chat template {name!r}", remedy=remedy)
    missing = [] if name.endswith(".jinja") else missing_tokens(tokenizer, name)
    if missing:
        more = f"or give the model new tokens: model.added_tokens: {json.dumps(missing)}"
        raise UserError(
            f"the chat template {name} writes {', '.join(missing)}, which the tokenizer does not have as tokens: "
            "they would be taken apart into pieces of text",
            remedy=f"{fitting_advice(tokenizer)}; {more}",
        )
    return {"default": path.read_text(encoding="utf-8")}


def ways_out(tokenizer: Any, model: ModelConfig, data: DataConfig, conversation: Conversation) -> str:
    """What to do about a conversation that the job's template refuses: built-in templates that take it, if any fit."""
    taken = []
    for name in fitting(tokenizer):
        try:
            make_renderer(tokenizer, model, data.model_copy(update={"chat_template": name})).render(conversation)
        except TemplateRefusalError:
            continue
        taken.append(name)
    remove = "mend or remove the row"
    return f"{remove}, or set data.chat_template to one that takes it: {', '.join(taken)}" if taken else remove


@cache
def built_in() -> list[str]:
    """Names of the templates that come with Tuneyard."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def fitting(tokenizer: Any) -> list[str]:
    """Built-in templates whose control tokens the tokenizer has, those with most of them first."""
    fits = [name for name in built_in() if not missing_tokens(tokenizer, name)]
    return sorted(fits, key=lambda name: -len(needed_tokens(name)))


def missing_tokens(tokenizer: Any, name: str) -> list[str]:
    """Control tokens of a built-in template that are no single tokens in the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    return [token for token in needed_tokens(name) if token not in vocabulary]


@cache
def needed_tokens(name: str) -> list[str]:
    """What the first line of a built-in template says: tokens that have to be whole in the vocabulary."""
    needed = NEEDED.match((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8"))
    return needed.group(1).split() if needed else []


def fitting_advice(tokenizer: Any) -> str:
    return f"set data.chat_template to one that fits this tokenizer: {', '.join(fitting(tokenizer))}"
