"""The rules of `tuneyard advise` as tables: each row has an upper bound, a value, a reason and a source.

Papers are cited by author and year. Where two disagree, the one that measured supervised fine-tuning of models of this
size is followed, and the other is named in the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.schedule_rules import FEW_STEPS


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of a table: an advised value that applies up to a bound.

    Attributes:
        upto: Largest value of the table's key (such as rows or parameters) for this row; infinity in the last row.
        value: The advised value.
        reason: The reason in one sentence.
        source: Papers or defaults that it comes from.
    """

    upto: float
    value: Any
    reason: str
    source: str


BILLION = 1e9
INFINITE = float("inf")

FULL_LEARNING_RATE = (
    Rule(
        upto=1.5 * BILLION,
        value=5e-5,
        reason="small models take larger steps",
        source="between Allal et al. 2025, SmolLM2 (3e-4 at 1.7B) and Taori et al. 2023, Alpaca (2e-5 at 7B)",
    ),
    Rule(
        upto=10 * BILLION,
        value=2e-5,
        reason="7B instruction tuning",
        source="Taori et al. 2023, Alpaca; Touvron et al. 2023, Llama 2",
    ),
    Rule(
        upto=20 * BILLION,
        value=1e-5,
        reason="13B instruction tuning",
        source="Taori et al. 2023, Alpaca; Zhou et al. 2023, LIMA",
    ),
    Rule(
        upto=INFINITE,
        value=5e-6,
        reason="the larger the model, the smaller the step: 2e-6 to 1e-5 at 70B",
        source="Lambert et al. 2024, Tulu 3",
    ),
)
"""Peak learning rate of a full fine-tune by parameters."""

LORA_LEARNING_RATE = (
    Rule(
        upto=15 * BILLION,
        value=2e-4,
        reason="about ten times the rate of a full fine-tune",
        source="Dettmers et al. 2023, QLoRA; Schulman et al. 2025, LoRA Without Regret",
    ),
    Rule(upto=INFINITE, value=1e-4, reason="halved from 33B on", source="Dettmers et al. 2023, QLoRA"),
)
"""Peak learning rate of adapters by parameters of the model."""

EPOCHS = (
    Rule(
        upto=500,
        value=5,
        reason="too few rows to be learned in fewer passes; watch the held-out loss",
        source="Zhou et al. 2023, LIMA, trained 1,000 rows for 15",
    ),
    Rule(
        upto=5_000,
        value=4,
        reason="repeating up to four times is nearly as good as new data",
        source="Muennighoff et al. 2023",
    ),
    Rule(
        upto=100_000,
        value=3,
        reason="the usual number for tens of thousands of rows",
        source="Taori et al. 2023, Alpaca",
    ),
    Rule(
        upto=1_000_000, value=2, reason="two passes over 939,000 rows were best", source="Lambert et al. 2024, Tulu 3"
    ),
    Rule(upto=INFINITE, value=1, reason="new rows teach more than old ones", source="Muennighoff et al. 2023"),
)
"""Epochs by rows."""

DROPOUT = (
    Rule(
        upto=2_000,
        value=0.1,
        reason="few rows, several passes: adapters overfit",
        source="Dettmers et al. 2023, QLoRA (0.1 up to 13B)",
    ),
    Rule(upto=50_000, value=0.05, reason="some protection", source="Dettmers et al. 2023, QLoRA (0.05 from 33B)"),
    Rule(
        upto=INFINITE,
        value=0.0,
        reason="many rows need none, and without it adapters are quicker",
        source="PEFT's default",
    ),
)
"""Dropout of adapters by rows."""

WARMUP = Rule(
    upto=INFINITE,
    value=0.03,
    reason="three hundredths of the steps",
    source="Taori et al. 2023, Alpaca; Dettmers et al. 2023, QLoRA; Lambert et al. 2024, Tulu 3",
)
SHORT_WARMUP = Rule(
    upto=INFINITE,
    value=0.1,
    reason="fewer than 300 steps: 3 % would be hardly any",
    source="Ma and Yarats 2021: AdamW's second moment needs some tens of steps",
)
SCHEDULE = Rule(
    upto=INFINITE,
    value="cosine",
    reason="decays to nothing by the last step; linear does as well",
    source="Touvron et al. 2023, Llama 2; Lambert et al. 2024, Tulu 3 (linear)",
)
FULL_DECAY = Rule(
    upto=INFINITE,
    value=0.1,
    reason="few rows, several passes over all weights",
    source="Touvron et al. 2023, Llama 2; Zhou et al. 2023, LIMA",
)
NO_DECAY = Rule(
    upto=INFINITE,
    value=0.0,
    reason="decay gains nothing here",
    source="Taori et al. 2023, Alpaca; Dettmers et al. 2023, QLoRA; Lambert et al. 2024, Tulu 3",
)

BATCHES = (128, 64, 32, 16, 8)
"""Rows of a step, largest first; 128 is Alpaca's and Tulu 3's, 32 and 64 LIMA's."""
SMALL_BATCHES = (4, 2, 1)
"""Where the data is too little for 8 rows in a step: more steps teach more than steadier ones."""
ENOUGH_STEPS = 200
"""Optimizer steps that a step's size should leave a run."""
MOST_STEP_TOKENS = {"cuda": 262_144, "cpu": 65_536}
"""Largest step: more tokens make no GPU quicker, and where the data is not known it is as good a guess as any."""
BATCH_REASON = f"the largest of {BATCHES[-1]} to {BATCHES[0]} rows that leaves at least {ENOUGH_STEPS} steps"
BATCH_SOURCE = "McCandlish et al. 2018 (noise scale); Schulman et al. 2025: LoRA bears large batches less"

COVERED_SHARE = 0.95
LENGTHS = tuple(512 * 2**n for n in range(9))
DEFAULT_LENGTH = 2048

BITS_PER_PARAMETER = 2.0
"""What a trained parameter can hold (Allen-Zhu and Li 2024, Knowledge Capacity Scaling Laws)."""
BITS_PER_TOKEN = 1.0
"""What a token adds, assumed: a loss of 0.7 nats, the order that instruction data starts from."""
RANKS = (8, 16, 32, 64, 128, 256)
LEAST_RANKS = {
    "style": 8,
    "classification": 8,
    "extraction": 16,
    "chat": 16,
    "knowledge": 32,
    "code": 64,
    "reasoning": 64,
}
"""Smallest rank by task: format needs little, code and mathematics gain up to 256 (Biderman et al. 2024)."""

TASKS = {
    "style": "how answers sound and look",
    "classification": "one label from a fixed set",
    "extraction": "fields out of a text",
    "chat": "following instructions in conversation",
    "knowledge": "facts that the model does not know",
    "code": "programs in a language or library",
    "reasoning": "mathematics and several steps of thought",
}
"""Tasks by name."""

PROMPT_ROWS = 50
FEW_SHOT_ROWS = 200
FULL_TOKENS = {"code": 20_000_000, "reasoning": 20_000_000}
MANY_TOKENS = 500_000_000
"""Tokens from which on a full fine-tune is worth its cost."""


def pick(table: tuple[Rule, ...], value: float) -> Rule:
    """Return the first rule of a table whose bound is not below the value."""
    return next(rule for rule in table if value <= rule.upto)


def learning_rate(method: str, parameters: int) -> Rule:
    """Return the rule for the peak learning rate of a method (`full`, or any with adapters) and a model size."""
    return pick(FULL_LEARNING_RATE if method == "full" else LORA_LEARNING_RATE, parameters)


def batch_rows(rows: float, epochs: float) -> int:
    """Return the advised rows per step: the most that leave `ENOUGH_STEPS` steps, or on little data `FEW_STEPS`."""
    if not rows:
        return BATCHES[1]
    small = (b for b in (BATCHES[-1], *SMALL_BATCHES) if rows * epochs / b >= FEW_STEPS)
    return next((b for b in BATCHES if rows * epochs / b >= ENOUGH_STEPS), 0) or next(small, SMALL_BATCHES[-1])


def batch_reason(rows: float, epochs: float) -> str:
    """Return the reason for `batch_rows`."""
    batch = batch_rows(rows, epochs)
    if rows and rows * epochs / batch < ENOUGH_STEPS:
        return f"the data is little, so the largest that leaves at least {FEW_STEPS} steps, or 1"
    return BATCH_REASON


def step_tokens(rows: float, tokens: float, epochs: float, device: str = "cuda") -> float:
    """Return the advised tokens per step: a batch of mean rows, at most the device's largest step."""
    return min(MOST_STEP_TOKENS[device], batch_rows(rows, epochs) * tokens / rows)


def power_of_two_near(value: float) -> int:
    """Return the power of two nearest to the value by ratio, at least 1; ranks divide it evenly."""
    power = 1
    while power * 2 <= value * 1.5:
        power *= 2
    return power
