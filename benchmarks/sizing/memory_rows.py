"""Published memory measurements as jobs: what a row's words say about the model, the trainer, and the layout.

Columns are those of measured/*.csv. Nothing is dropped in silence: a row becomes a `Case`, or a reason.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.sizing import presets
from launcher.sizing.memory.settings import GIB, Adapters, Engine, Job, Regime
from launcher.sizing.shape import ModelShape, find_model, shape_by_name, shape_by_size, size_in_name

GB = 1e9
Row = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that can be predicted.

    Attributes:
        kind: What the number is: `allocated`, `reserved`, `process`, or a label: `oom`, `fits`.
        gib: The number in GiB; a label's is the GPU's memory.
        grade: The first word of the notes.
    """

    row: Row
    job: Job
    preset: str
    kind: str
    gib: float
    gpu: str
    grade: str

    @property
    def source(self) -> str:
        """The project that the row comes from."""
        return source_name(self.row["source"])

    @property
    def method(self) -> str:
        """`full`, `lora` or `qlora`."""
        if self.job.adapters is None:
            return "full"
        return "qlora" if self.job.quantization else "lora"


def source_name(source: str) -> str:
    """The project of a source: its first word, without commit or path."""
    return re.split(r"[@#( :]", source.removeprefix("huggingface/"))[0].lower().strip("/") or "unknown"


def read_rows(path: Path) -> list[Row]:
    """All rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


class CannotPredictError(Exception):
    """A row says too little, or speaks of something that the model does not know."""


def cumulated(rows: list[Row]) -> list[Row]:
    """The rows with what an ablation's earlier steps said written out, where notes call its steps cumulative.

    Each step `+X` holds for all later ones. Before the step that brings a chunked loss, the loss is an ordinary one.
    """
    steps: dict[tuple[str, str], list[str]] = {}
    found = []
    for row in rows:
        said = re.search(r"cumulative[^:]*:\s*(\S.*)", row.get("notes") or "")
        if not said:
            found.append(row)
            continue
        key = (row["source"], row["model"])
        steps[key] = [*([] if "baseline" in said[1].lower() else steps.get(key, [])), said[1]]
        plain = "" if any("chunked" in step for step in steps[key]) else "; whole fp32 loss"
        found.append(row | {"notes": f"{row['notes'][: said.start()]}: {'; '.join(_still_true(steps[key]))}{plain}"})
    return found


def _still_true(steps: list[str]) -> list[str]:
    """Steps without the baseline's own data once later steps packed them."""
    return [s for s in steps if "unpacked" not in s.lower()] if any("+packed" in s for s in steps) else steps


def case_of(row: Row) -> Case:
    """A row as a case.

    Raises:
        CannotPredictError: with the reason.
    """
    words = " ".join(row.get(key) or "" for key in ("notes", "optimizer", "act_ckpt", "precision", "parallelism"))
    kind, gib = _measured(row)
    shape = _shape(row)
    preset = presets.guess(row["source"], row.get("notes") or "")
    method = _method(row)
    engine = _engine(row, preset)
    regime = _regime(row, shape, preset, method, engine, words)
    whole_gradients = preset in presets.UNSYNCHRONISED and engine.startswith("fsdp")
    job = Job(
        shape=shape,
        regime=regime,
        adapters=None if method == "full" else _adapters(row, shape, preset),
        quantization=_quantization(row, method),
        engine=engine,
        gpus=_gpus(row),
        offload=_offload(row),
        micro_batch=_number(row, "micro_batch"),
        length=_length(row),
        checkpointing=_checkpointing(row, preset),
        attention=_attention(words),
        optimizer=_optimizer(row),
        in_backward=bool(re.search(r"optim\w*[_ ]in[_ ](bwd|backward)", words)),
        gpu_gib=_capacity(row),
        reshard="shard_grad_op" not in words.lower() and "reshard_after_forward=false" not in words.lower(),
        accumulation=max(_accumulation(words), 2 if whole_gradients else 1),
        unsynchronised=whole_gradients or ("no_sync" in words and _accumulation(words) > 1),
        **_degrees(row, preset, shape),
    )
    grade = (row.get("notes") or "").partition(" ")[0].rstrip(";:,") or "?"
    return Case(row=row, job=job, preset=preset, kind=kind, gib=gib, gpu=row.get("gpu") or "", grade=grade)


def _number(row: Row, key: str) -> int:
    text = (row.get(key) or "").strip()
    if not re.fullmatch(r"\d+(\.0+)?", text):
        raise CannotPredictError(f"{key} is not given" if not text else f"{key} is {text!r}")
    return int(float(text))


def _measured(row: Row) -> tuple[str, float]:
    """What kind of number the row has, and the number in GiB."""
    unit, value = row["unit"].lower(), float(row["measured_value"])
    if "oom" in unit:
        return "oom", value
    if "fits" in unit:
        return "fits", value
    if "vendor" in unit or "minimum" in unit:
        raise CannotPredictError("a vendor's minimum, not a measurement of a configuration")
    if "budget" in unit:
        return "process", value * GB / GIB
    if "model init" in unit:
        raise CannotPredictError("a peak of loading, not of training")
    gib = value if "gib" in unit else value * GB / GIB
    return _kind(row, unit), gib


def _kind(row: Row, unit: str) -> str:
    """Allocated, reserved, or of the whole process; where the unit says nothing, what the trainer is known to print."""
    said = f"{unit} {row.get('notes') or ''}".lower()
    preset = presets.guess(row["source"], row.get("notes") or "")
    if presets.PRINTS.get(preset) == "reserved" and not re.search(r"alloc|active|smi", unit):
        return "reserved"
    if "nvidia-smi" in unit or "process" in unit or "nvml" in unit:
        return "process"
    if "reserved" in unit:
        return "reserved"
    if "alloc" in unit or "peak" in unit or "active" in unit:
        return "allocated"
    if "max_memory_allocated" in said or "torch peak" in said:
        return "allocated"
    if "reserved" in said and "allocated" not in said:
        return "reserved"
    return presets.PRINTS.get(presets.guess(row["source"]), "process")


def _shape(row: Row) -> ModelShape:
    name, told = row["model"], row.get("params") or ""
    parameters = int(float(told)) if told else 0
    if "component" in row["method"] or "lm_head" in name:
        raise CannotPredictError("a component, not a training run")
    if found := find_model(name):
        return shape_by_name(found)
    parameters = parameters or size_in_name(name)
    if not parameters:
        raise CannotPredictError(f"the shape of {name!r} is not known")
    return shape_by_size(parameters, name)


ADAPTER_METHODS = (
    "lora",
    "qlora",
    "dora",
    "adalora",
    "adapter",
    "boft",
    "bone",
    "vera",
    "ia3",
    "ln_tuning",
    "prefixtuning",
    "pissa",
    "olora",
    "gptq-lora",
)


def _method(row: Row) -> str:
    method = re.split(r"[( ]", row["method"].lower())[0]
    notes = f"{row['source']} {row.get('notes') or ''}".lower()
    if method == "full" and re.search(r"galore|lisa|badam|apollo", notes):
        raise CannotPredictError("a method that trains parts of the weights in turns (GaLore, LISA)")
    if method in ADAPTER_METHODS:
        return "lora"
    if method not in ("full", "pretrain", "sft"):
        raise CannotPredictError(f"method {row['method']!r}")
    return "full"


def _engine(row: Row, preset: str) -> Engine:
    text, gpus = row["parallelism"].lower(), _gpus(row)
    for pattern, engine in ENGINES:
        if re.search(pattern, text):
            return engine
    if preset == "megatron" or re.search(r"\b(tp|pp|ep|cp)\d", text):
        return "megatron"
    if gpus > 1:
        return "ddp"
    deepspeed = presets.ALWAYS_DEEPSPEED.get(preset, "single")
    return deepspeed if _method(row) == "full" else "single"  # type: ignore[return-value]


ENGINES: tuple[tuple[str, Engine], ...] = (
    (r"zero-?3|zero-?infinity|stage ?3", "zero3"),
    (r"zero-?2|stage ?2", "zero2"),
    (r"zero-?1|stage ?1", "zero1"),
    (r"fsdp ?2|hsdp", "fsdp2"),
    (r"fsdp", "fsdp1"),
    (r"megatron|dist-opt", "megatron"),
    (r"ddp|deepspeed", "ddp"),
)


def _gpus(row: Row) -> int:
    """Number of GPUs; authors write `4 * 26GB` or `18GiB * 2`."""
    notes = row.get("notes") or ""
    found = re.search(r"(\d+) ?\* ?[\d.]+ ?gi?b", notes.lower()) or re.search(r"gi?b ?\* ?(\d+)", notes.lower())
    if found:
        return int(found[1])
    degrees = [int(d) for d in re.findall(r"(?:tp|pp|dp|cp)(\d+)", row["parallelism"].lower())]
    text = (row.get("n_gpus") or "").strip()
    if not text:
        product = 1
        for degree in degrees:
            product *= degree
        return max(product, 1)
    return int(float(text))


def _degrees(row: Row, preset: str, shape: ModelShape) -> dict[str, int]:
    text = row["parallelism"].lower()
    split = r"tp\d|pp\d|ep\d" if shape.num_experts else r"tp\d|pp\d"
    is_megatron = preset == "megatron" or "megatron" in text
    if is_megatron and _gpus(row) > 1 and not re.search(split, text):
        raise CannotPredictError("Megatron on several GPUs, but not how the model is split over them")
    found = {name: re.search(rf"\b{name}(\d+)", text) for name in ("tp", "pp", "cp", "ep", "ulysses")}
    degrees = {name: int(match[1]) for name, match in found.items() if match}
    if "ulysses" in degrees:
        degrees["cp"] = degrees.pop("ulysses")
    if ep := re.search(r"-ep(\d+)", text):
        degrees["ep"] = int(ep[1])
    return degrees


def _offload(row: Row) -> str:
    text = f"{row['parallelism']} {row.get('notes') or ''}".lower()
    if re.search(r"infinity|opt\+param|cpu[_ ]offload|zero3_offload|param\w* offload", text):
        return "all"
    return "optimizer" if re.search(r"offload", row["parallelism"].lower()) else ""


def _length(row: Row) -> int:
    """Tokens of a sequence; short unpacked data count with the longest usual example."""
    text = (row.get("seq_len") or "").lower()
    number = re.search(r"\d{2,}", text)
    unpacked = re.search(r"alpaca|unpacked", f"{text} {row.get('notes') or ''}".lower())
    if unpacked and "packed" not in text.replace("unpacked", ""):
        return min(ALPACA_LONGEST, int(number[0])) if number else ALPACA_LONGEST
    if number:
        return int(number[0])
    raise CannotPredictError("seq_len is not given" if not text else f"seq_len is {text!r}")


ALPACA_LONGEST = 512


def _checkpointing(row: Row, preset: str) -> str:  # type: ignore[return]
    text = f"{row.get('act_ckpt') or ''} {row['parallelism']}".lower()
    if "no-ckpt" in text:
        return "none"
    if "offload" in (row.get("act_ckpt") or "").lower() or preset == "unsloth":
        return "offload"
    if re.search(r"selective|sac|per-op", text):
        return "selective"
    return "none" if re.search(r"\bnone|\bno\b|off|false", (row.get("act_ckpt") or "").lower()) else "full"


def _attention(words: str) -> str:
    text = words.lower()
    if "eager" in text:
        return "eager"
    return "sdpa" if re.search(r"sdpa|kernel=flash", text) else "flash"


def _optimizer(row: Row) -> str:
    text = (row.get("optimizer") or "").lower()
    eight = "8bit" in text or "8-bit" in text
    if "paged" in text:
        return "paged_adamw_8bit" if eight else "adamw"
    for word, name in (("adafactor", "adafactor"), ("sgd", "sgd"), ("lion", "lion")):
        if word in text:
            return name
    return "adamw_8bit" if eight else "adamw"


def _accumulation(words: str) -> int:
    found = re.search(r"(?:grad\w* ?acc\w*|accum\w*|\bga)[ =:]*(\d+)", words.lower())
    return int(found[1]) if found else 1


def _quantization(row: Row, method: str) -> str:
    text = f"{row.get('precision') or ''} {row['method']} {row['model']} {row.get('notes') or ''}".lower()
    if method == "full":
        return ""
    if re.search(r"gptq|awq|int4", text):
        return "gptq4"
    if re.search(r"int8|8-bit (base|weights)|llm\.int8|load_in_8bit", text):
        return "int8"
    if not re.search(r"nf4|fp4|qlora|4-?bit", text):
        return ""
    plain = re.search(r"(nf4|fp4)(?!.*(dq|double))", text) and presets.guess(row["source"]) == "litgpt"
    return "nf4_plain" if plain else "nf4"


def _capacity(row: Row) -> float:
    """Memory of the GPU that the row names, in GiB as sold; 0 when it names none."""
    found = re.search(r"(?:-|_|^| )(\d{2,3}) ?gb|-(\d{2,3})\b", (row.get("gpu") or "").lower())
    return float(found[1] or found[2]) if found else 0.0


def _regime(row: Row, shape: ModelShape, preset: str, method: str, engine: str, words: str) -> Regime:
    precision = f" {row.get('precision') or ''} ".lower()
    amp = True if re.search(r"amp|mixed|autocast", precision) else None
    if amp is None and "true" in precision:
        amp = False
    fp32 = bool(re.search(r"\b(fp32|float32|tf32)\b(?! adapters)", precision))
    packed = _quantization(row, method)
    situation = presets.Situation(
        method=method, quantised=bool(packed), gptq=packed == "gptq4", engine=engine, amp=amp, fp32=fp32
    )
    regime = presets.named(preset, situation)
    modern = _is_modern(row, shape)
    if regime.loss == "hf" and modern:
        regime = replace(regime, loss="hf_unshifted")
    regime = presets.reworded(regime, words)
    if regime.loss == "fused_ce" and not modern:
        regime = replace(regime, loss="fused_ce_shifted")
    if engine != "single" and regime.hidden_fp32 and engine.startswith("fsdp"):
        regime = replace(regime, hidden_fp32=False)
    return _plain_loss(regime, shape) if shape.model_type in PLAIN_TYPES else regime


def _plain_loss(regime: Regime, shape: ModelShape) -> Regime:
    """Classes that never upcast their logits."""
    if not regime.loss.startswith(("hf", "fused_ce")):
        return regime
    names = ("plain_amp", "plain_amp_fused") if regime.autocast else ("bf16", "plain_fused")
    return replace(regime, loss=names[regime.loss.startswith("fused_ce")])


PLAIN_TYPES = ("gpt2", "gpt_bigcode", "gpt_neox", "opt", "bloom", "mpt")
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
    return "liger" in f"{row['source']} {row.get('notes') or ''}".lower() or shape.model_type in NEW_TYPES


def _adapters(row: Row, shape: ModelShape, preset: str) -> Adapters:
    notes = f"{row.get('notes') or ''} {row['source'].rsplit('/', 1)[-1]}"
    rank = re.search(r"\br(?:ank)?[ =_]?(\d+)", notes.lower()) or re.search(r"rank(\d+)", notes.lower())
    targets = _targets(notes, shape, preset)
    return Adapters(r=int(rank[1]) if rank else RANKS.get(preset, 16), targets=targets, dora="dora" in notes.lower())


RANKS = {"qwen": 64, "swift": 8, "litgpt": 8, "torchtune": 8, "fsdp_qlora": 64, "huggingface": 8, "megatron": 16}
ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
DEFAULTS = {"litgpt": ("q", "v"), "torchtune": ("q", "v", "o", *MLP), "huggingface": ATTENTION}


def _targets(notes: str, shape: ModelShape, preset: str) -> list[str]:
    """Projections that get adapters, by the names that this model has for them."""
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
    if re.search(r"all[- ]linear", text) or not wanted:
        wanted = set(DEFAULTS.get(preset, (*ATTENTION, *MLP))) if "linear" not in text else {*ATTENTION, *MLP}
    names = list(dict.fromkeys(name for role in sorted(wanted) for name in _role_names(shape, role)))
    if re.search(r"linear\+output|lm_head", text):
        names.append("lm_head")
    return names or [shape.linears[0].name]


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
