"""Reads one published speed measurement: what ran, on what, and what was measured, from its columns and notes.

Every rule here is about words that many publications use, never about one row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from benchmarks.sizing.layout import PublishedLayout
from benchmarks.sizing.memory_words import measured_in, number_in
from benchmarks.sizing.speed_models import UNMODELLED, work_named
from launcher.errors import JobError
from launcher.sizing.gpus import Gpu, find_gpu
from launcher.sizing.layout import Adapters, Checkpointing, Engine, Offload
from launcher.sizing.speed.inputs import SpeedInput
from launcher.sizing.speed.work import Work
from launcher.sizing.trainer_model import BF16, FP32, Attention, Stack, TrainerModel

Row = dict[str, str]

VARIABLE_SHARE = 0.4
"""Mean length of rows that are said to vary up to a limit, as a share of it."""
UNKNOWN_LENGTH = "length of an unpacked batch"
OPEN_ACCUMULATION = "forward passes per step"
PACKED_DOCUMENT = 512
"""Keys that a token of packed fine-tuning data attends to where documents are kept apart, on average."""
ALPACA_TOKENS = 120
"""Length that batches of Alpaca-like rows are padded to."""
POWER_LIMITED = 0.6
"""Rate of a GPU that is said to be power-limited, as a share of the ordinary one."""
DEGREE = re.compile(r"\b(tp|pp|cp|sp|ulysses|ep|vp+|fsdp|dp)[ =_-]?(\d+)", re.I)
MEGATRON = re.compile(r"megatron|nemo\b(?![ -]*automodel)|mlperf|\bvp+\d|mbridge", re.I)
FUSED = re.compile(r"foak|fast-kernels|liger|unsloth|llm-foundry|fused kernels|fms-fsdp|flashattn", re.I)
COMPILED = re.compile(r"\bcompiled?\b|automodel", re.I)
NOT_COMPILED = re.compile(r"no compile|without compile|compile[ =:]*(off|false|no)|\beager\b", re.I)
SAME_DEGREE = {"vpp": "vp", "sp": "cp", "ulysses": "cp"}
"""Sequence parallelism splits the tokens as context parallelism does."""
BARE_LOOP = re.compile(r"fitcheck|canifinetune|steps only|step_seconds|bare loop")
"""Benchmarks that write their own loop, without the autocast that trainers open around a forward pass."""
FORMATS = (
    ("fp4", r"fp4(?!.*bf16 nf4)|nvfp4"),
    ("fp8", r"fp8|float8|mxfp8"),
    ("fp16", r"fp16|float16(?!.*bfloat)"),
    ("bf16", r"bf16|bfloat16"),
    ("fp32", r"fp32|float32|tf32"),
)


class UnreadableError(Exception):
    """A row that cannot be predicted; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One measurement, ready to be predicted.

    Attributes:
        given: The model, how it ran, and on what.
        value: What was measured.
        unit: `tokens/s/GPU`, `tokens/s`, `seconds/step`, `samples/s`, `mfu`, `tflops`.
        ambiguous: What the row left open and physics or convention settled.
    """

    given: SpeedInput
    value: float
    unit: str
    ambiguous: tuple[str, ...]


def read_row(row: Row) -> Reading:
    """The measurement of one row.

    Raises:
        UnreadableError: something that speed depends on is missing or not modelled.
    """
    ambiguous: list[str] = []
    work, gpu, ranks = _model(row), _gpu(row), _int(row["n_gpus"]) or 1
    layout, fill = _shape_of_step(row, ambiguous)
    layout = _parallelism(row, replace(layout, ranks=ranks, nodes=-(-ranks // gpu.per_node)))
    trainer = _trainer(row, work)
    layout = _method(row, layout, trainer)
    layout = _accumulation(row, layout, ambiguous)
    given = SpeedInput(
        work=work, layout=layout, gpu=gpu, node_gpus=min(gpu.per_node, ranks), trainer=trainer, fill=fill
    )
    given = _unsaid(row, given, ambiguous)
    return Reading(given=given, value=_value(row), unit=_unit(row), ambiguous=tuple(ambiguous))


def _model(row: Row) -> Work:
    if row["model"] in UNMODELLED:
        raise UnreadableError(UNMODELLED[row["model"]])
    work = work_named(row["model"], number_in(row["params"] or "") or 0.0)
    if work is None:
        raise UnreadableError(f"unknown model {row['model']}")
    return work


def _gpu(row: Row) -> Gpu:
    name = row["gpu"]
    variant = re.search(r"96|500 ?w", name, re.I) or "torchtitan" in row["source"] + row["notes"]
    if re.match(r"h100", name, re.I) and variant:
        name = "H100-96"  # torchtitan's machines have this variant, as its benchmark pages say
    try:
        gpu = find_gpu(name)
    except JobError as error:
        raise UnreadableError(error.message) from error
    if "power limited" in name:
        return replace(gpu, matmul={key: POWER_LIMITED * rate for key, rate in gpu.matmul.items()})
    return gpu


def _int(text: str) -> int:
    found = re.search(r"\d[\d,]*", text or "")
    return int(found[0].replace(",", "")) if found else 0


def _value(row: Row) -> float:
    value = measured_in(row["measured_value"] or "")
    if value is None:
        raise UnreadableError(f"measured value {row['measured_value']!r} is no number that can have been measured")
    return value


def _unit(row: Row) -> str:
    unit = row["unit"].lower()
    for known, pattern in (
        ("tokens/s/GPU", r"tok\w*/s\w*/(gpu|device)|tokens per second per gpu"),
        ("tokens/s", r"tok\w*/s|tokens per second|tps"),
        ("samples/s", r"(samples|sequences|examples)/s"),
        ("seconds/step", r"^(s|sec\w*)/(it|iter\w*|step)|^seconds"),
        ("milliseconds/step", r"^ms/|millisec"),
        ("mfu", r"mfu"),
        ("tflops", r"tflop"),
    ):
        if re.search(pattern, unit):
            return known
    raise UnreadableError(f"unit {row['unit']!r}")


def _shape_of_step(row: Row, ambiguous: list[str]) -> tuple[PublishedLayout, float]:
    """Tokens and sequences of a forward pass, and the share of positions that are no padding."""
    length, text = _int(row["seq_len"]), row["seq_len"].lower()
    if re.search(r"\d+\s*k\b", text):
        length = 1024 * _int(text)
    if "alpaca" in text:
        length, _ = ALPACA_TOKENS, ambiguous.append(UNKNOWN_LENGTH)
    elif "<" in text or "variable" in text:
        length, _ = int(VARIABLE_SHARE * length), ambiguous.append("mean of variable lengths")
    if not length:
        raise UnreadableError("no sequence length")
    micro = _int(row["micro_batch"])
    if not micro:
        ambiguous.append("micro-batch")
    fill = 1.0
    if "unpacked" in row["notes"].lower() and "packed" in row["notes"].lower() and "alpaca" not in text:
        fill = 0.3
    return PublishedLayout(length=length, micro_batch=micro or max(1, 8192 // length)), fill


def _parallelism(row: Row, layout: PublishedLayout) -> PublishedLayout:
    text = row["parallelism"].lower()
    degrees: dict[str, int] = {}
    for name, number in DEGREE.findall(re.sub(r"\(\d+\)|fsdp[12]\b", "", text)):
        degrees.setdefault(SAME_DEGREE.get(name, name), int(number))
    tp, pp, cp = (max(1, degrees.get(name, 1)) for name in ("tp", "pp", "cp"))
    if layout.ranks % (tp * pp * cp):
        raise UnreadableError(f"{layout.ranks} GPUs are no multiple of tp x pp x cp = {tp * pp * cp}")
    return replace(
        layout,
        tp=tp,
        pp=pp,
        sequence_parallel=cp,
        ep=degrees.get("ep", 1),
        virtual_stages=max(1, degrees.get("vp", 1)),
        engine=_engine(text, row, layout.ranks),
        shard_ranks=_shard_ranks(text, degrees),
    )


def _shard_ranks(text: str, degrees: dict[str, int]) -> int:
    return degrees.get("fsdp", 0) if "hsdp" in text or "hybrid" in text else 0


def _engine(text: str, row: Row, ranks: int) -> Engine:
    if ranks == 1:
        return "single"
    engine: Engine
    for engine, pattern in ENGINES:
        if re.search(pattern, text):
            return engine
    return "zero1" if MEGATRON.search(row["source"]) else "ddp"


ENGINES: tuple[tuple[Engine, str], ...] = (
    ("zero3", r"zero-?3|stage ?3"),
    ("zero2", r"zero-?2|shard_grad_op|stage ?2"),
    ("fsdp2", r"fsdp|full_shard|hsdp"),
    ("zero1", r"zero-?1|stage ?1|dist|megatron|tp|pp"),
)


def _trainer(row: Row, work: Work) -> TrainerModel:
    """Kernels, software and number formats that ran."""
    everything = " ".join(row[name] for name in ("source", "parallelism", "notes", "optimizer"))
    stack = _stack(everything)
    if stack in ("fused", "unsloth") and not work.gated and "llm-foundry" not in everything:
        stack = "hf"  # Liger and its like replace RMSNorm, rotation and SwiGLU, which this model has not
    loop = bool(re.search(r"mixtral|moe|a\d+b|a800m|gpt-oss", row["model"], re.I))
    grouped = re.search(r"scattermoe|grouped|megablocks|transformers ?>=? ?5", everything) or stack == "megatron"
    stream = _stream(row) if _quantized(row) else "half"
    return replace(
        _optimizer(row, stack),
        number_format=_number_format(row),
        stack=stack,
        attention=_attention(everything, stack),
        expert_loop=loop and not grouped,
        kbit_upcast=stream != "half",
        hidden_fp32=stream == "full",
    )


def _stack(everything: str) -> Stack:
    cumulative = re.search(r"cumulative ablation step: (.*)", everything)
    if cumulative:
        return "hf" if re.match(r"baseline|\+packed", cumulative[1], re.I) else "compiled"
    if MEGATRON.search(re.sub(r"zero\d.*", "", everything)) and not re.search(r"zero-?\d", everything):
        return "megatron"
    if COMPILED.search(everything) and not NOT_COMPILED.search(everything):
        return "compiled"
    if re.search(r"unsloth|accelerated-peft\S*foak", everything):
        return "unsloth"
    return "fused" if FUSED.search(everything) else "hf"


def _attention(everything: str, stack: Stack) -> Attention:
    if re.search(r"kernel=eager|eager attention|math attention", everything):
        return "eager"
    if "llm-foundry" in everything:
        return "flash1"
    return "cudnn" if stack == "megatron" else "flash"


def _checkpointing(row: Row, stack: Stack) -> Checkpointing:
    text = row["act_ckpt"].lower()
    if re.search(r"select|sac|per-op|core_attn|recipe", text):
        return "attention" if stack == "megatron" else "selective"
    if re.search(r"full|yes|true|\bon\b|\bac\b|checkpoint", text):
        return "full"
    return "none"


OPTIMIZERS: tuple[tuple[TrainerModel, str], ...] = (
    (TrainerModel(in_backward=True), r"in_bwd|in.backward"),
    (TrainerModel(optimizer="adamw_8bit"), r"8.?bit"),
    (TrainerModel(optimizer="lion"), r"lion"),
    (TrainerModel(foreach=False), r"fused|dist adam|te adam"),
)


def _optimizer(row: Row, stack: Stack) -> TrainerModel:
    """A trainer with the row's optimizer; without words for one, AdamW as the stack usually has it."""
    text = f"{row['optimizer']} {row['notes']}".lower()
    for trainer, pattern in OPTIMIZERS:
        if re.search(pattern, text):
            return trainer
    pure = re.search(r"^(bf16|bfloat16)$", row["precision"].strip().lower())
    return TrainerModel(foreach=stack not in ("megatron", "compiled"), trained_bytes=BF16 if pure else FP32)


def _number_format(row: Row) -> str:
    """The format of the linear layers; empty is the GPU's own 16-bit one."""
    plain = re.sub(r"nf4\S*|gptq\S*", "", row["precision"].lower())
    found = next((name for name, pattern in FORMATS if re.search(pattern, plain)), "bf16")
    return "" if found in ("bf16", "fp16") else found


def _quantized(row: Row) -> str:
    """How the frozen weights of a row are packed; empty where they are not."""
    text, method = row["precision"].lower(), row["method"].lower()
    if "qlora" not in method and "nf4" not in text:
        return ""
    return _quantization(f"{text} {row['notes'].lower()}") or ("nf4" if "qlora" in method else "")


def _method(row: Row, layout: PublishedLayout, trainer: TrainerModel) -> PublishedLayout:
    """What trains, how frozen weights are packed, what is computed again, and what lies in host memory."""
    method = row["method"].lower()
    full = "full" in method
    return replace(
        layout,
        adapters=None if full else Adapters(r=_rank(row), targets=_adapted(row, method)),
        quantization="" if full else _quantized(row),
        checkpointing=_checkpointing(row, trainer.stack),
        offload=_offload(row),
    )


def _stream(row: Row) -> str:
    """Width of the residual stream: PEFT's k-bit preparation makes it float32 by default; many stacks undo that."""
    text = f"{row['source']} {row['notes']} {row['parallelism']}".lower()
    if re.search(r"accelerated-peft|torchtune|unsloth|gptq|fsdp|compile|foak|zero-?\d", text):
        return "half"
    return "full" if BARE_LOOP.search(text) else "norms"


def _quantization(text: str) -> str | None:
    for name, pattern in (("gptq4", r"gptq|int4|awq"), ("nf4", r"nf4|4.?bit|qlora"), ("int8", r"int8|8bit base")):
        if re.search(pattern, text):
            return name
    return None


ATTENTION_ONLY = ["q_proj", "k_proj", "v_proj", "o_proj"]


def _adapted(row: Row, method: str) -> str | list[str]:
    """Projections with adapters: all, or those of attention."""
    if "lora" not in method:
        return ATTENTION_ONLY if method in ("vera", "ia3", "prefixtuning") else []
    text = row["notes"].lower()
    if re.search(r"mlp|gate|all.?linear|c_proj|w1", text):
        return "all-linear"
    if re.search(r"q_proj|q,v|qkv|attention|c_attn", text):
        return ATTENTION_ONLY
    everywhere = re.search(r"torchtune|unsloth|fitcheck|canifinetune|fsdp_qlora|litgpt", row["source"])
    return "all-linear" if everywhere else ATTENTION_ONLY


def _rank(row: Row) -> int:
    found = re.search(r"\br ?=? ?(\d+)\b|rank ?(\d+)", f"{row['notes']} {row['source']}")
    return int(found[1] or found[2]) if found else 16


def _offload(row: Row) -> Offload:
    text = f"{row['parallelism']} {row['notes'].split(';')[0]}".lower()
    if not re.search(r"offload", text) or re.search(r"activation offload|no offload", text):
        return ""
    return "optimizer" if re.search(r"zero-?[12]|optimizer offload|opt\w* offload", text) else "all"


def _unsaid(row: Row, given: SpeedInput, ambiguous: list[str]) -> SpeedInput:
    """What practice settles: documents of packed fine-tuning data, checkpointing where nothing fits without."""
    packed = re.search(r"(?<!un)packed", row["notes"]) and "pretrain" not in row["method"]
    if packed and given.fill == 1:
        given = replace(given, document_length=PACKED_DOCUMENT)
    if row["act_ckpt"].strip() or given.trainer.stack == "megatron":
        return given
    work, layout = given.work, given.layout
    widths = 12 * work.hidden + 3 * work.query + work.kv + 3 * work.ffn * work.active
    kept = 2 * work.layers * widths * given.tokens / layout.tp / layout.pp
    states = (16 if given.trains_all else 2) * work.parameters / layout.ranks
    ambiguous.append("checkpointing")
    fits = kept + states <= 0.85 * given.gpu.usable_bytes
    return replace(given, layout=replace(layout, checkpointing="none" if fits else "full"))


def _accumulation(row: Row, layout: PublishedLayout, ambiguous: list[str]) -> PublishedLayout:
    """Forward passes per step: stated, or from the global batch; one where nothing is said."""
    notes = row["notes"]
    stated = re.search(
        r"(?:\b(?:grad(?:ient)?[ _-]?)?accum\w*|\bGA|\bgradaccum)[ =:]*(?:steps)?[ =:]*(?:of )?(\d+)", notes, re.I
    )
    batch = re.search(r"(?:GBS|global batch(?: size)?)[ =:]*(\d+)", notes, re.I)
    if stated:
        return replace(layout, accumulation=max(1, int(stated[1])))
    if batch:
        each = layout.micro_batch * layout.data_ranks
        return replace(layout, accumulation=max(1, round(int(batch[1]) / each)))
    if _unit(row) in ("seconds/step", "milliseconds/step"):
        ambiguous.append(OPEN_ACCUMULATION)
    return layout
