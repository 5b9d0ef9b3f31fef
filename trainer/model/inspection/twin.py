"""How a model must be run, seen on a tiny twin of it: the same class, from the same configuration made small.

The twin runs a few conversations alone, as Transformers computes their loss, and as the trainer would run them: in
one row, or side by side. Loss and gradient must agree, and what comes later must not show in what comes before. Which
architectures can be packed is thus never taken from a list.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import AutoModelForCausalLM

from trainer.capabilities import OWN
from trainer.config import LossConfig
from trainer.data.pack.batch import Batch, _assemble
from trainer.errors import UserError
from trainer.model.attention import packed_attention
from trainer.model.inspection.shrink import FIRST_WORD, ORIGINAL, WINDOW, WORDS, shrunk
from trainer.model.loading.weights import numberless
from trainer.model.loss.cross_entropy import head_settings
from trainer.model.loss.router import router_settings
from trainer.model.supervised import SupervisedModel
from trainer.model_files.inspection_cache import ALONE, PACKED, REFUSED

LENGTHS = (WINDOW - 1, ORIGINAL + 7, WINDOW + 4)
"""Conversations that are shorter and longer than windows, and longer than the original positions."""
MOST_PARAMETERS = 50_000_000
LOSS_AGREES, GRADIENT_AGREES = 2e-5, 1e-3
"""Largest relative differences that rounding makes; those of leaks begin at 5e-5 and 1e-2."""


@dataclass
class Verdict:
    """How a model is run.

    Attributes:
        how: `packed`, `alone` (each conversation in a row of its own) or `refused`.
        reason: why not packed, or refused; empty else.
        router_fault: why the router's auxiliary loss cannot be trained; empty if it can, or if there is none.
        unused: patterns of the names of parameters that no loss depends on.
        asked: of a packed model, what its layers ask of attention kernels: `softcap`, `sinks`.
    """

    how: str
    reason: str = ""
    router_fault: str = ""
    unused: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Seen:
    """Loss of each conversation, and the gradient of their sum."""

    losses: list[float]
    gradient: torch.Tensor

    def differs(self, other: Seen) -> str:
        """By how much another differs, in words; empty if rounding explains it."""
        loss = max(abs(a - b) / max(abs(b), 1e-9) for a, b in zip(self.losses, other.losses, strict=True))
        gradient = float((self.gradient - other.gradient).norm() / other.gradient.norm().clamp_min(1e-12))
        if not (np.isfinite(loss) and np.isfinite(gradient)):
            return "not a number"
        if loss <= LOSS_AGREES and gradient <= GRADIENT_AGREES:
            return ""
        return f"loss by {loss:.1e}, gradient by {gradient:.1e}"


def verdict_of(config: Any, trust_remote_code: bool = False) -> Verdict:
    """How a model must be run, from its configuration alone. Neither generators nor devices of the caller matter."""
    same = torch.random.fork_rng(devices=[])
    with unset_fake_temporarily(), torch.device("cpu"), same, torch.enable_grad(), _one_thread():
        text = config.get_text_config()
        if not hasattr(text, "output_router_logits"):
            return _verdict(config, trust_remote_code, False)
        balanced = _verdict(config, trust_remote_code, True)
        if balanced.how != REFUSED:
            return balanced
        plain = _verdict(config, trust_remote_code, False)
        plain.router_fault = balanced.reason
        return plain


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small are slower with more, many times on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _verdict(config: Any, trust_remote_code: bool, balanced: bool) -> Verdict:
    try:
        twin, own = _twin_that_runs(config, trust_remote_code, balanced)
    except Exception as error:  # any architecture's own code runs in there
        return Verdict(REFUSED, f"Transformers cannot run a tiny model of its configuration: {_short(error)}")
    if not np.isfinite(own.losses).all():
        return Verdict(REFUSED, "the loss of a tiny model of its configuration is not a number")
    fault = before = ""
    for how, backend in ((PACKED, "padded"), (ALONE, OWN)):
        before, fault = fault, twin.fault(backend, own)
        if not fault:
            asked = sorted(packed_attention.asked_of_kernels()) if how == PACKED else []
            return Verdict(how, before, unused=twin.unused, asked=asked)
    return Verdict(REFUSED, fault)


def _twin_that_runs(config: Any, trust_remote_code: bool, balanced: bool) -> tuple[Twin, Seen]:
    """A twin and what it shows; where its sizes do not fit together, one that is only shallow and of few words."""
    try:
        twin = Twin(shrunk(config), trust_remote_code, balanced)
        return twin, twin.own()
    except Exception:  # any architecture's own code runs in there
        try:
            twin = Twin(shrunk(config, narrow=False), trust_remote_code, balanced)
            return twin, twin.own()
        except Exception as second:
            again = second
        raise again from None


class Twin:
    """A tiny model, with weights large enough that what a token sees shows in the loss."""

    def __init__(self, config: Any, trust_remote_code: bool, balanced: bool) -> None:
        self._config, self._trust = config, trust_remote_code
        self._loss = LossConfig(chunk_tokens=7, output_router_logits=balanced)
        words = min(WORDS, self._config.get_text_config().vocab_size)
        rng = np.random.default_rng(0)
        self._tokens = [rng.integers(FIRST_WORD, words, length) for length in LENGTHS]
        self._model = self._built()
        _spread_weights(self._model)
        self.unused: list[str] = []

    def _built(self, **options: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # not those of the GPUs, which stay as the caller seeded them
            options |= {"dtype": torch.float32, "trust_remote_code": self._trust}
            with torch.device("meta"):
                size = sum(p.numel() for p in self._from_config(options).parameters())
            if size > MOST_PARAMETERS:
                raise ValueError(f"made small it still has {size:,} parameters")
            return self._from_config(options).train()

    def _from_config(self, options: dict[str, Any]) -> Any:
        return AutoModelForCausalLM.from_config(copy.deepcopy(self._config), **options)  # it notes options there

    def own(self) -> Seen:
        """Each conversation alone, through the model's own forward pass and loss."""
        losses, models = [], []
        options = {"output_router_logits": True} if self._loss.output_router_logits is True else {}
        for tokens in self._tokens:
            model = copy.deepcopy(self._model)  # some remember what they have seen
            ids = torch.from_numpy(tokens)[None]
            loss = model(input_ids=ids, labels=ids, use_cache=False, **options).loss * (len(tokens) - 1)
            loss.backward()
            losses.append(float(loss.detach()))
            models.append(model)
        self.unused = _never_used(models)
        return Seen(losses, torch.stack([_gradient(model) for model in models]).sum(0))

    def fault(self, backend: str, own: Seen) -> str:
        """What is wrong with running the model so; empty if nothing is."""
        try:
            alone = self._alone(backend)
            if differs := alone.differs(own):
                return f"the loss of a conversation alone is not Transformers' own: {differs}"
            together = self._seen(backend, [self._tokens])
            if differs := together.differs(Seen([sum(alone.losses)], alone.gradient)):
                return f"a conversation sees its neighbours in the pack: {differs}"
            return self._sees_later(backend)
        except Exception as error:  # any architecture's own code runs in there
            return _short(error)

    def _alone(self, backend: str) -> Seen:
        return self._seen(backend, [[tokens] for tokens in self._tokens])

    def _seen(self, backend: str, batches: list[list[np.ndarray]]) -> Seen:
        model = self._supervised(backend)
        losses = []
        for tokens in batches:
            loss = model(_batch(tokens))
            loss.backward()
            losses.append(float(loss.detach()))
        return Seen(losses, _gradient(model.causal_lm))

    @torch.no_grad()
    def _sees_later(self, backend: str) -> str:
        """Whether the loss at earlier places changes with later tokens."""
        tokens = self._tokens[1]
        kept = len(tokens) // 2
        changed = np.concatenate([tokens[:kept], tokens[:kept:-1], tokens[kept : kept + 1]])
        losses = [float(self._supervised(backend)(_batch([t], kept), plain=True)) for t in (tokens, changed)]
        differs = abs(losses[0] - losses[1]) / max(abs(losses[0]), 1e-9)
        return f"a token sees those that come after it: loss by {differs:.1e}" if differs > LOSS_AGREES else ""

    def _supervised(self, backend: str) -> SupervisedModel:
        model = self._built(**({} if backend == OWN else {"attn_implementation": packed_attention.NAME}))
        model.load_state_dict(self._model.state_dict())
        packed_attention.silence_dropout(model)
        router = router_settings(model, self._loss)
        return SupervisedModel(model, backend, head_settings(model.config, self._loss), router=router)


def _batch(conversations: list[np.ndarray], supervised: int | None = None) -> Batch:
    """Conversations of which every token counts, or those before `supervised`."""
    masks = [(np.arange(len(tokens)) < (supervised or len(tokens))).astype(np.uint8) for tokens in conversations]
    return _assemble(conversations, masks, [1.0] * len(conversations))


def _gradient(model: nn.Module) -> torch.Tensor:
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in found])


def _never_used(models: list[nn.Module]) -> list[str]:
    """Patterns of names, layers and experts alike, of which no parameter got any gradient."""
    got: dict[str, bool] = defaultdict(bool)
    for model in models:
        for name, parameter in model.named_parameters():
            got[numberless(name)] |= parameter.grad is not None
    return sorted(name for name, used in got.items() if not used)


@torch.no_grad()
def _spread_weights(model: nn.Module) -> None:
    """Weights as after training: sums keep their size, norms and biases are not all alike, states decay slowly."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            parameter.fill_(-4.0)
        elif name.endswith(("dt_bias", "dt_proj.bias")):
            parameter.fill_(-1.0)
        elif parameter.ndim == 1:
            centre = 1.0 if re.search(r"norm|ln", name) and not name.endswith("bias") else 0.0
            if centre or name.endswith("bias"):
                parameter.normal_(centre, 0.1, generator=generator)
        elif (name.endswith("weight") and parameter.ndim == 2) or ("conv" not in name and parameter.ndim == 3):
            parameter.normal_(0.0, parameter.shape[-1] ** -0.5, generator=generator)


def _short(error: BaseException) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, KeyError) and error.args == (packed_attention.NAME,):
        return "its layers know no other attention than their own"
    known = error.message if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
    return known[:200]
