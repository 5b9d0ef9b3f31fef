"""Published memory measurements as jobs: what a row's words say about the model, the trainer, and the layout.

Columns are those of measured/*.csv. Nothing is dropped in silence: a row becomes a `Case`, or a reason.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.sizing import trainers
from benchmarks.sizing.layout import PublishedLayout
from benchmarks.sizing.memory_words import (
    BESIDE,
    Row,
    accumulation_in,
    adapters_in,
    attention_in,
    capacity_in,
    checkpointing_in,
    measured_in,
    number_in,
    optimizer_in,
    quantization_in,
    trained_in,
    trainer_in,
    virtual_tokens_in,
)
from launcher.sizing.gpus import known_gpu
from launcher.sizing.hardware import Hardware
from launcher.sizing.layout import Engine, Offload
from launcher.sizing.memory import MemoryInput
from launcher.sizing.shape import ModelShape, find_model, shape_by_name, shape_by_size, size_in_name
from rundir.quantities import GIB

GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row that can be predicted.

    Attributes:
        kind: What the number is: `allocated`, `reserved`, `process`, or a label: `oom`, `fits`.
        gib: The number in GiB; a label's is the GPU's memory.
        grade: The first word of the notes.
    """

    row: Row
    given: MemoryInput
    trainer: str
    kind: str
    gib: float
    grade: str

    @property
    def source(self) -> str:
        """The project that the row comes from."""
        return source_name(self.row["source"])

    @property
    def method(self) -> str:
        """`full`, `lora` or `qlora`."""
        layout = self.given.layout
        if layout.adapters is None:
            return "full"
        return "qlora" if layout.quantization else "lora"


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
    shape, method = _shape(row), _method(row)
    trainer = trainers.guess(row["source"], row.get("notes") or "")
    engine = _engine(row, trainer)
    whole_gradients = trainer in trainers.UNSYNCHRONISED and engine.startswith("fsdp")
    layout = PublishedLayout(
        engine=engine,
        ranks=_gpus(row),
        micro_batch=_number(row, "micro_batch"),
        accumulation=max(accumulation_in(words), 2 if whole_gradients else 1),
        length=_length(row) + virtual_tokens_in(row, shape),
        checkpointing=checkpointing_in(row, trainer),
        adapters=None if method == "full" else adapters_in(row, shape, trainer),
        quantization=quantization_in(row, method),
        offload=_offload(row),
        **_degrees(row, trainer, shape),  # type: ignore[arg-type]
    )
    lowered = words.lower()
    habits = replace(
        trainer_in(row, shape, trainer, method, engine, words),
        attention=attention_in(words),
        optimizer=optimizer_in(row),
        in_backward=bool(re.search(r"optim\w*[_ ]in[_ ](bwd|backward)", words)),
        reshards="shard_grad_op" not in lowered and "reshard_after_forward=false" not in lowered,
        unsynchronised=whole_gradients or ("no_sync" in words and accumulation_in(words) > 1),
    )
    given = MemoryInput(shape=shape, layout=layout, trainer=habits, hardware=Hardware(usable_gib=_usable_gib(row)))
    grade = (row.get("notes") or "").partition(" ")[0].rstrip(";:,") or "?"
    return Case(row=row, given=given, trainer=trainer, kind=kind, gib=gib, grade=grade)


def _usable_gib(row: Row) -> float:
    """Usable memory of the row's GPU; 0 when it names none."""
    known = known_gpu(row.get("gpu") or "")
    return known.usable_gib if known else capacity_in(row) * USABLE_SHARE


USABLE_SHARE = 0.97
"""Of a GPU's memory as sold, where the catalogue does not know the GPU."""


def _number(row: Row, key: str) -> int:
    text = (row.get(key) or "").strip()
    if not re.fullmatch(r"\d+(\.0+)?", text):
        raise CannotPredictError(f"{key} is not given" if not text else f"{key} is {text!r}")
    return int(float(text))


def _measured(row: Row) -> tuple[str, float]:
    """What kind of number the row has, and the number in GiB."""
    text = (row["measured_value"] or "").lower()
    unit, value = row["unit"].lower(), measured_in(text)
    if label := next((label for label, words in LABELS.items() if re.search(words, f"{unit} {text}")), ""):
        return label, capacity_in(row) if value is None else value
    if value is None:
        raise CannotPredictError(f"measured_value is {row['measured_value']!r}")
    if "vendor" in unit or "minimum" in unit:
        raise CannotPredictError("a vendor's minimum, not a measurement of a configuration")
    if "budget" in unit:
        return "process", value * GB / GIB
    if "model init" in unit:
        raise CannotPredictError("a peak of loading, not of training")
    gib = value * next((size for name, size in UNITS if name in unit), GB) / GIB
    return _kind(row, unit), gib


LABELS = {"oom": r"\boom\b|out.of.memory", "fits": r"\bfits\b"}
"""What unit or value say where only that was measured."""
UNITS = (("gib", 1024**3), ("mib", 1024**2), ("mb", 1e6))
"""Bytes of a unit by its name; anything else counts as GB of 1e9 bytes."""


def _kind(row: Row, unit: str) -> str:
    """Allocated, reserved, or of the whole process; where the unit says nothing, what the trainer is known to print."""
    said = f"{unit} {row.get('notes') or ''}".lower()
    trainer = trainers.guess(row["source"], row.get("notes") or "")
    if trainers.PRINTS.get(trainer) == "reserved" and not re.search(r"alloc|active|smi", unit):
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
    return trainers.PRINTS.get(trainers.guess(row["source"]), "process")


def _shape(row: Row) -> ModelShape:
    name, told = row["model"], row.get("params") or ""
    parameters = int(number_in(told) or 0)
    if "component" in row["method"] or "lm_head" in name:
        raise CannotPredictError("a component, not a training run")
    if found := find_model(name):
        return shape_by_name(found)
    parameters = parameters or size_in_name(name)
    if not parameters:
        raise CannotPredictError(f"the shape of {name!r} is not known")
    return shape_by_size(parameters, name)


ADAPTERS = re.compile(r"lora|dora|adapter|boft|bone|vera|ia3|pissa")
ADAPTED_SHARE = 0.02
"""A method of whatever name that trains less of the weights than this counts as adapters."""
WHOLE = re.compile(r"full|fft|pretrain|sft|fine.?tun")


def _method(row: Row) -> str:
    method = row["method"].strip().lower()
    notes = f"{row['source']} {row.get('notes') or ''}".lower()
    if ADAPTERS.search(method) or BESIDE.search(method):
        return "lora"
    if re.search(r"galore|lisa|badam|apollo", notes):
        raise CannotPredictError("a method that trains parts of the weights in turns (GaLore, LISA)")
    if 0 < trained_in(row) < ADAPTED_SHARE * (number_in(row.get("params") or "") or 0):
        return "lora"
    if not WHOLE.search(method):
        raise CannotPredictError(f"method {row['method']!r}")
    return "full"


def _engine(row: Row, trainer: str) -> Engine:
    text, gpus = row["parallelism"].lower(), _gpus(row)
    for pattern, engine in ENGINES:
        if re.search(pattern, text):
            return engine
    if trainer == "megatron" or re.search(r"\b(tp|pp|ep|cp)\d", text):
        return "megatron"
    if gpus > 1:
        return "ddp"
    deepspeed = trainers.ALWAYS_DEEPSPEED.get(trainer, "single")
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
    return _number(row, "n_gpus")


def _degrees(row: Row, trainer: str, shape: ModelShape) -> dict[str, int]:
    text = row["parallelism"].lower()
    split = r"tp\d|pp\d|ep\d" if shape.num_experts else r"tp\d|pp\d"
    is_megatron = trainer == "megatron" or "megatron" in text
    if is_megatron and _gpus(row) > 1 and not re.search(split, text):
        raise CannotPredictError("Megatron on several GPUs, but not how the model is split over them")
    found = {name: re.search(rf"\b{name}(\d+)", text) for name in ("tp", "pp", "cp", "ep", "ulysses")}
    degrees = {name: int(match[1]) for name, match in found.items() if match}
    if "ulysses" in degrees:
        degrees["cp"] = degrees.pop("ulysses")
    if "cp" in degrees:
        degrees["sequence_parallel"] = degrees.pop("cp")
    if ep := re.search(r"-ep(\d+)", text):
        degrees["ep"] = int(ep[1])
    return degrees


def _offload(row: Row) -> Offload:
    text = f"{row['parallelism']} {row.get('notes') or ''}".lower()
    if re.search(r"infinity|opt\+param|cpu[_ ]offload|zero3_offload|param\w* offload", text):
        return "all"
    return "optimizer" if re.search(r"offload", row["parallelism"].lower()) else ""


def _length(row: Row) -> int:
    """Tokens of a sequence; short unpacked data count with the longest usual example."""
    text = (row.get("seq_len") or "").lower()
    text = re.sub(r"(\d+) ?k\b", lambda found: str(int(found[1]) * 1024), text)
    number = re.search(r"\d{2,}", text)
    unpacked = re.search(r"alpaca|unpacked", f"{text} {row.get('notes') or ''}".lower())
    if "alpaca-like" in text:
        raise CannotPredictError("the length of unpacked data is not given")
    if unpacked and "packed" not in text.replace("unpacked", ""):
        return min(ALPACA_LONGEST, int(number[0])) if number else ALPACA_LONGEST
    if number:
        return int(number[0])
    raise CannotPredictError("seq_len is not given" if not text else f"seq_len is {text!r}")


ALPACA_LONGEST = 512
