"""What the words of a published row say about settings: kernels, precision, adapters, optimizer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from benchmarks.sizing import trainers
from launcher.sizing.layout import Adapters, Checkpointing
from launcher.sizing.shape import ModelShape
from launcher.sizing.shape.lora import lora_parameters
from launcher.sizing.trainer_model import Attention, TrainerModel

Row = dict[str, str]


_SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def number_in(text: str) -> float | None:
    """The first number as people write it: `4,699`, `41,5`, `7_241_732_096`, `72.7B`, `350M`; None without any."""
    found = re.search(r"(\d[\d,._]*)(e[+-]?\d+)?(?: ?([kmbt])(?:illion|params)?\b)?", text.strip(), re.I)
    if not found:
        return None
    digits = re.sub(r",(?=\d{3}(\D|$))", "", found[1].rstrip(",._").replace("_", "")).replace(",", ".")
    with contextlib.suppress(ValueError):
        return float(digits + (found[2] or "")) * _SCALES.get((found[3] or "").lower(), 1.0)
    return None


def measured_in(text: str) -> float | None:
    """The number of a measurement: what nobody can have measured, like 0 in a row of a run that failed, is none."""
    value = number_in(text)
    return value if value and not text.strip().startswith("-") else None


def checkpointing_in(row: Row, trainer: str) -> Checkpointing:
    """Kind of checkpointing; full where a row says nothing, as almost every fine-tune has it."""
    text = f"{row.get('act_ckpt') or ''} {row['parallelism']}".lower()
    if "no-ckpt" in text:
        return "none"
    if "offload" in (row.get("act_ckpt") or "").lower() or trainer == "unsloth":
        return "offload"
    if re.search(r"selective|sac|per-op", text):
        return "selective"
    return "none" if re.search(r"\bnone|\bno\b|off|false", (row.get("act_ckpt") or "").lower()) else "full"


def attention_in(words: str) -> Attention:
    """Attention kernel; flash where nothing else is said. fitcheck calls torch's own kernel `flash`."""
    text = words.lower()
    if "eager" in text:
        return "eager"
    return "sdpa" if re.search(r"sdpa|kernel=flash", text) else "flash"


def optimizer_in(row: Row) -> str:
    """Optimizer by its name in `OPTIMIZER_BYTES`."""
    text = (row.get("optimizer") or "").lower()
    eight = "8bit" in text or "8-bit" in text
    if "paged" in text:
        return "paged_adamw_8bit" if eight else "adamw"
    for word, name in (("adafactor", "adafactor"), ("sgd", "sgd"), ("lion", "lion")):
        if word in text:
            return name
    return "adamw_8bit" if eight else "adamw"


def accumulation_in(words: str) -> int:
    """Forward passes before a step, where words tell."""
    found = re.search(r"(?:grad\w* ?acc\w*|accum\w*|\bga)[ =:]*(\d+)", words.lower())
    return int(found[1]) if found else 1


def quantization_in(row: Row, method: str) -> str:
    """How the base is packed. litgpt names double quantisation `nf4-dq`, others mean it by `nf4`."""
    text = f"{row.get('precision') or ''} {row['method']} {row['model']} {row.get('notes') or ''}".lower()
    if method == "full":
        return ""
    if re.search(r"gptq|awq|int4", text):
        return "gptq4"
    if re.search(r"int8|8-bit (base|weights)|llm\.int8|load_in_8bit", text):
        return "int8"
    if not re.search(r"nf4|fp4|qlora|4-?bit", text):
        return ""
    plain = re.search(r"(nf4|fp4)(?!.*(dq|double))", text) and trainers.guess(row["source"]) == "litgpt"
    return "nf4_plain" if plain else "nf4"


def capacity_in(row: Row) -> float:
    """Memory of the GPU that the row names, in GiB as sold; 0 when it names none."""
    found = re.search(r"(?:-|_|^| )(\d{2,3}) ?gb|-(\d{2,3})\b", (row.get("gpu") or "").lower())
    return float(found[1] or found[2]) if found else 0.0


def trainer_in(row: Row, shape: ModelShape, trainer: str, method: str, engine: str, words: str) -> TrainerModel:
    """The trainer's habits, with what the row says about precision, kernels, and (by the model's age) versions."""
    precision = f" {row.get('precision') or ''} ".lower()
    amp = True if re.search(r"amp|mixed|autocast", precision) else None
    if amp is None and "true" in precision:
        amp = False
    fp32 = bool(re.search(r"\b(fp32|float32|tf32)\b(?! adapters)", precision))
    packed = quantization_in(row, method)
    setup = trainers.TrainingSetup(
        method=method, quantised=bool(packed), gptq=packed == "gptq4", engine=engine, amp=amp, fp32=fp32
    )
    trainer_model = trainers.named(trainer, setup)
    modern = _is_modern(row, shape)
    if trainer_model.loss == "hf" and modern:
        trainer_model = replace(trainer_model, loss="hf_unshifted")
    trainer_model = trainers.reworded(trainer_model, words)
    if trainer_model.loss == "fused_ce" and not modern:
        trainer_model = replace(trainer_model, loss="fused_ce_shifted")
    if engine != "single" and trainer_model.hidden_fp32 and engine.startswith("fsdp"):
        trainer_model = replace(trainer_model, hidden_fp32=False)
    return _plain_loss(trainer_model, shape) if shape.model_type in PLAIN_TYPES else trainer_model


def _plain_loss(trainer_model: TrainerModel, shape: ModelShape) -> TrainerModel:
    """Classes that never upcast their logits."""
    if not trainer_model.loss.startswith(("hf", "fused_ce")):
        return trainer_model
    names = ("plain_amp", "plain_amp_fused") if trainer_model.autocast else ("bf16", "plain_fused")
    return replace(trainer_model, loss=names[trainer_model.loss.startswith("fused_ce")])


PLAIN_TYPES = ("gpt2", "gpt_bigcode", "gpt_neox", "opt", "bloom", "mpt")
"""Architectures whose class loses logits in their own type."""
NEW_TYPES = (
    "granite",
    "granitemoe",
    "granitemoeshared",
    "olmo2",
    "qwen3",
    "qwen3_moe",
    "gemma3_text",
    "gpt_oss",
    "glm4_moe",
)
"""Architectures that only came with transformers 4.45 or later, and so with a loss that upcasts later."""


def _is_modern(row: Row, shape: ModelShape) -> bool:
    """Liger kernels, too, need transformers 4.45 or later."""
    return "liger" in f"{row['source']} {row.get('notes') or ''}".lower() or shape.model_type in NEW_TYPES


def adapters_in(row: Row, shape: ModelShape, trainer: str) -> Adapters:
    """Rank, targets, and modules that train whole, in words; else the trainer's usual ones."""
    notes = f"{row.get('notes') or ''} {row['source'].rsplit('/', 1)[-1]}"
    num_trained = trained_in(row)
    if BESIDE.search(row["method"].lower()):
        return Adapters(targets=[], saved_modules=num_trained)
    rank = re.search(r"\br(?:ank)?[ =_]?(\d+)", notes.lower()) or re.search(r"rank(\d+)", notes.lower())
    r, dora = int(rank[1]) if rank else 0, "dora" in notes.lower()
    if num_trained:
        targets, r = _counted(notes, shape, r, dora, num_trained)
    else:
        targets, r = _targets(notes, shape, trainer), r or RANKS.get(trainer, 16)
    whole = re.search(r"\bemb\b|modules_to_save|embeddings?\b.*\btrain", f"{row['method']} {notes}".lower())
    return Adapters(
        r=r,
        targets=targets,
        dora=dora,
        saved_modules=shape.root_parameters if whole else 0,
    )


BESIDE = re.compile(r"prefix|prompt|p[-_ ]?tuning|ln_?tuning|layer_?norm|trainable_?tokens")
"""Methods whose parameters lie beside the projections, which then keep no inputs for them."""


def trained_in(row: Row) -> int:
    """How many parameters a row says that train; 0 where it does not say."""
    found = re.search(r"\btrainable[ =:]+(\d[\d,]*)", row.get("notes") or "")
    return int(number_in(found[1]) or 0) if found else 0


def virtual_tokens_in(row: Row, shape: ModelShape) -> int:
    """Tokens that prompt tuning puts before every sequence: it trains one embedding for each."""
    is_one = re.search(r"prompt[-_ ]?tun", row["method"].lower())
    return trained_in(row) // shape.hidden_size if is_one else 0


def _counted(notes: str, shape: ModelShape, r: int, dora: bool, num_trained: int) -> tuple[list[str], int]:
    """The projections whose adapters have as many parameters as a row says, and their rank.

    Where none do, the projections that are named, or PEFT's usual two.
    """
    for roles in (QUERY_VALUE, ATTENTION, MLP, (*ATTENTION, *MLP)):
        names = _names_of(roles, shape)
        rank = r or num_trained // max(1, lora_parameters(shape, r=1, target_modules=names))
        if names and lora_parameters(shape, r=rank, target_modules=names, use_dora=dora) == num_trained:
            return names, rank
    names = _names_of(_roles_in(notes) or QUERY_VALUE, shape)
    return names or [shape.linears[0].name], r or RANKS["huggingface"]


RANKS = {"qwen": 64, "swift": 8, "litgpt": 8, "torchtune": 8, "fsdp_qlora": 64, "huggingface": 8, "megatron": 16}
QUERY_VALUE, ATTENTION, MLP = ("q", "v"), ("q", "k", "v", "o"), ("gate", "up", "down")
DEFAULTS = {"litgpt": ("q", "v"), "torchtune": ("q", "v", "o", *MLP), "huggingface": ATTENTION}
"""Ranks and targets of a trainer's examples, for rows that do not say."""


def _targets(notes: str, shape: ModelShape, trainer: str) -> list[str]:
    """Projections that get adapters, by the names that this model has for them."""
    text, wanted = notes.lower(), _roles_in(notes)
    if re.search(r"all[- ]linear", text) or not wanted:
        wanted = set(DEFAULTS.get(trainer, (*ATTENTION, *MLP))) if "linear" not in text else {*ATTENTION, *MLP}
    names = _names_of(wanted, shape)
    if re.search(r"linear\+output|lm_head", text):
        names.append("lm_head")
    return names or [shape.linears[0].name]


def _names_of(roles: Iterable[str], shape: ModelShape) -> list[str]:
    return list(dict.fromkeys(name for role in sorted(roles) for name in _role_names(shape, role)))


def _roles_in(notes: str) -> set[str]:
    text, wanted = notes.lower(), set[str]()
    for letter in "qkvo":
        if re.search(rf"\b{letter}_proj|[ ,]{letter}(?=[,+ )]|$)", text):
            wanted.add(letter)
    if re.search(r"\bmlp\b|target-mlp", text):
        wanted |= set(MLP)
    if re.search(r"c_attn", text):
        wanted |= {"q", "k", "v"}
    if re.search(r"\battention\b", text) and not wanted:
        wanted |= set(ATTENTION)
    return wanted


ROLES = {
    "q": r"q_proj|qkv|query_key_value|c_attn|Wqkv|q_b_proj|q_a_proj",
    "k": r"k_proj|qkv|query_key_value|c_attn|Wqkv|kv_a_proj",
    "v": r"v_proj|qkv|query_key_value|c_attn|Wqkv|kv_b_proj",
    "o": r"o_proj|attention\.dense|attn\.c_proj|out_proj|attn\.dense",
    "gate": r"gate_proj|gate_up_proj|mlp\.w1|input_linear",
    "up": r"up_proj|gate_up_proj|mlp\.w2|h_to_4h|c_fc|fc1|input_linear",
    "down": r"down_proj|mlp\.c_proj|4h_to_h|fc2|output_linear",
}


def _role_names(shape: ModelShape, role: str) -> Iterator[str]:
    for linear in shape.linears:
        if not linear.is_expert and re.search(ROLES[role], linear.name):
            yield linear.name
