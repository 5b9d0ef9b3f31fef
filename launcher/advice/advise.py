"""Advise whether to fine-tune, by which method and with which settings; each number comes with reason and source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.advice import rules
from launcher.advice.rules import Rule, batch_rows, pick
from launcher.errors import JobError
from launcher.sizing.shape import ModelShape, lora_parameters
from rundir.quantities import count


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What the advice depends on.

    Attributes:
        shape: The model's shape.
        task: A key of `rules.TASKS`.
        rows: Number of conversations; 0 if unknown.
        tokens: Number of tokens in them; 0 if unknown.
        lengths: Tokens of each conversation whose length is known.
        methods_that_fit: Methods whose memory fits the GPUs; None if no GPU was named.
    """

    shape: ModelShape
    task: str
    rows: int
    tokens: int
    lengths: Sequence[int] = ()
    methods_that_fit: tuple[str, ...] | None = None

    @property
    def row_tokens(self) -> float:
        """Mean tokens per conversation; 0 if the number of rows is unknown."""
        return self.tokens / self.rows if self.rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """One advised value, with its reason and source."""

    setting: str
    value: Any
    reason: str
    source: str

    def as_json(self) -> dict[str, Any]:
        """Return the item as it stands in the JSON output."""
        return {"setting": self.setting, "value": self.value, "reason": self.reason, "source": self.source}


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The advice for a situation.

    Attributes:
        approach: `prompt`, `few-shot`, `retrieval`, `lora`, `qlora` or `full`.
        reasons: Reasons for the approach, the main one first.
        method: The method that `settings` are for, also when the approach is not to fine-tune.
        settings: Advised values of settings of the job file.
    """

    approach: str
    reasons: tuple[Item, ...]
    method: str
    settings: tuple[Item, ...]

    def value(self, setting: str) -> Any:
        """Return the advised value of a setting, or None."""
        return next((item.value for item in self.settings if item.setting == setting), None)

    def as_json(self) -> dict[str, Any]:
        """Return the advice as it stands in the JSON output."""
        return {
            "approach": self.approach,
            "reasons": [item.as_json() for item in self.reasons],
            "method": self.method,
            "settings": [item.as_json() for item in self.settings],
        }


def advise(situation: Situation) -> Advice:
    """Return the advice for a situation.

    Raises:
        JobError: the task is unknown, or there are more rows than tokens.
    """
    if situation.task not in rules.TASKS:
        known = ", ".join(f"{name} ({what})" for name, what in rules.TASKS.items())
        raise JobError(f"unknown task {situation.task!r}", f"Known: {known}.")
    if situation.tokens and situation.rows > situation.tokens:
        raise JobError(f"{count(situation.rows, 'row')} cannot have only {count(situation.tokens, 'token')}")
    reasons = tuple(_approach(situation))
    approach = reasons[0].value
    method = approach if approach in ("full", "lora", "qlora") else _adapter_method(situation)
    return Advice(approach=approach, reasons=reasons, method=method, settings=settings_of(situation, method))


def settings_of(situation: Situation, method: str) -> tuple[Item, ...]:
    """Return the advised settings for a method, whether or not that method is advised."""
    return tuple(_settings(situation, method))


def _approach(situation: Situation) -> Iterator[Item]:
    """Yield the advised approach with its main reason, then further reasons."""
    rows, task = situation.rows, situation.task
    if rows and rows < rules.PROMPT_ROWS:
        yield _why("prompt", f"{rows} rows are examples, not training data", "Brown et al. 2020, GPT-3")
        return
    if task == "knowledge" and situation.tokens < rules.MANY_TOKENS:
        yield _why("retrieval", "facts are better looked up than trained in", "Ovadia et al. 2023")
        yield _why("retrieval", "training on facts new to the model makes it invent others", "Gekhman et al. 2024")
        return
    if rows and rows < rules.FEW_SHOT_ROWS and task in ("classification", "extraction", "style"):
        yield _why(
            "few-shot", f"{rows} rows fit a prompt; measure that first", "Brown et al. 2020; Agarwal et al. 2024"
        )
        return
    yield from _training(situation)


def _training(situation: Situation) -> Iterator[Item]:
    """Yield the training method (lora, qlora or full) with its main reason, then further reasons."""
    bound = rules.FULL_TOKENS.get(situation.task, rules.MANY_TOKENS)
    adapter = _adapter_method(situation)
    if situation.tokens < bound:
        yield _why(
            adapter,
            f"below {bound:,} tokens of this task adapters learn as much and forget less",
            "Biderman et al. 2024, LoRA Learns Less and Forgets Less; Schulman et al. 2025",
        )
    elif _fits(situation, "full"):
        yield _why("full", f"{situation.tokens:,} tokens exceed what adapters hold", "Biderman et al. 2024")
        return
    else:
        yield _why(adapter, "a full fine-tune would learn more, and does not fit these GPUs", "memory model")
    if adapter == "qlora":
        yield _why(
            "qlora", "16-bit weights do not fit; NF4 with adapters loses nothing measurable", "Dettmers et al. 2023"
        )
    if situation.rows and situation.rows < 1000:
        yield _why(adapter, "below 1,000 rows quality counts more than anything here", "Zhou et al. 2023, LIMA")


def _why(value: str, reason: str, source: str) -> Item:
    return Item(setting="approach", value=value, reason=reason, source=source)


def _fits(situation: Situation, method: str) -> bool:
    return situation.methods_that_fit is None or method in situation.methods_that_fit


def _adapter_method(situation: Situation) -> str:
    return "lora" if _fits(situation, "lora") or not _fits(situation, "qlora") else "qlora"


def _settings(situation: Situation, method: str) -> Iterator[Item]:
    size, rows = situation.shape.num_parameters, situation.rows
    full = method == "full"
    yield _item("training.learning_rate", rules.learning_rate(method, size))
    epochs = pick(rules.EPOCHS, rows or 10_000)
    yield _item("training.num_train_epochs", epochs)
    length = length_item(situation)
    yield length
    batch = batch_rows(rows, epochs.value)
    yield _step(situation, epochs.value, length.value)
    steps = rows * epochs.value / batch if rows else rules.ENOUGH_STEPS * 2
    yield _item("training.warmup_steps", rules.WARMUP if steps >= 300 else rules.SHORT_WARMUP)
    yield _item("training.lr_scheduler_type", rules.SCHEDULE)
    yield _item("training.weight_decay", rules.FULL_DECAY if full and 0 < rows < 5000 else rules.NO_DECAY)
    if not full:
        yield from _adapters(situation)


def _item(setting: str, rule: Rule) -> Item:
    return Item(setting=setting, value=rule.value, reason=rule.reason, source=rule.source)


def _step(situation: Situation, epochs: float, length: int) -> Item:
    """Return the advised tokens per step: about a batch of mean rows, as a power of two of packs."""
    rows, batch = situation.rows, batch_rows(situation.rows, epochs)
    wanted = rules.step_tokens(rows, situation.tokens, epochs) if rows else batch * length / 4
    value: int | str = rules.power_of_two_near(wanted / length) * length
    reason = f"about {count(batch, 'row')}: {rules.batch_reason(rows, epochs)}"
    if wanted < length:
        value, reason = "auto", f"{reason}; that is less than a pack, so the plan may leave conversations apart"
    return Item(
        setting="training.tokens_per_step",
        value=value,
        reason=reason,
        source=rules.BATCH_SOURCE,
    )


def length_item(situation: Situation) -> Item:
    """Return the advised `data.max_length`: the shortest of `rules.LENGTHS` that covers at least 95 % of the rows."""
    if not situation.lengths:
        return Item(
            setting="data.max_length",
            value=rules.DEFAULT_LENGTH,
            reason="the data is not at hand; `tuneyard check` counts its lengths",
            source="default",
        )
    lengths = sorted(situation.lengths)
    longest = lengths[min(len(lengths) - 1, int(rules.COVERED_SHARE * len(lengths)))]
    value = next((length for length in rules.LENGTHS if length >= longest), rules.LENGTHS[-1])
    share = covered(lengths, value)
    return Item(
        setting="data.max_length",
        value=value,
        reason=f"covers {100 * share:.1f} % of the rows; longer packs cost memory and attention",
        source="lengths of the data, at least 95 %",
    )


def covered(lengths: Sequence[int], length: int) -> float:
    """Return the share (0 to 1) of rows that are no longer than `length` tokens."""
    return sum(entry <= length for entry in lengths) / len(lengths)


def _adapters(situation: Situation) -> Iterator[Item]:
    rank, reason = rank_of(situation)
    source = "Schulman et al. 2025; Allen-Zhu and Li 2024; Biderman et al. 2024"
    yield Item(setting="method.r", value=rank, reason=reason, source=source)
    yield Item(
        setting="method.lora_alpha",
        value=2 * rank,
        reason="twice the rank keeps the step's size when the rank changes",
        source="Biderman et al. 2024",
    )
    yield _item("method.lora_dropout", pick(rules.DROPOUT, situation.rows or 10_000))
    yield Item(
        setting="method.target_modules",
        value="all-linear",
        reason="adapters on all projections matter more than their rank",
        source="Dettmers et al. 2023, QLoRA; Schulman et al. 2025",
    )


def rank_of(situation: Situation) -> tuple[int, str]:
    """Return the LoRA rank and the reason.

    It is the smallest rank whose adapters have the capacity for the information in the tokens, and at least the task's
    minimum.
    """
    minimum = rules.LEAST_RANKS[situation.task]
    bits = situation.tokens * rules.BITS_PER_TOKEN
    for rank in (r for r in rules.RANKS if r >= minimum):
        capacity = rules.BITS_PER_PARAMETER * lora_parameters(situation.shape, r=rank, target_modules="all-linear")
        if capacity >= bits:
            return rank, f"holds {capacity / 8e6:,.0f} MB at 2 bits a parameter, for {bits / 8e6:,.1f} MB of new text"
    return rules.RANKS[-1], "the largest usual rank; the data says more than it can hold"
