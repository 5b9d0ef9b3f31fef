"""Two optimizer steps of one rank of N, alone: what they take in memory, by component and phase, and in time.

The process group is torch's fake one: collectives return at once and move nothing, but engines shard, gather and
reduce as on N ranks, with the trainer's own code. `real` runs on this device and tells its time. `counted` runs on
fake tensors: nothing is computed and nothing allocated, so that a model of any size is measured anywhere; every
storage is counted as if it were there, and attention as the kernels for GPUs keep it.

Weights are random, and the data is one token: neither changes what a step takes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import device_mesh

from trainer.config import MethodConfig, TrainerConfig
from trainer.data.pack.batch import Batch
from trainer.engines import Engine, build_engine
from trainer.errors import UserError
from trainer.measure.allocation_counter import Allocations
from trainer.metrics.observed import device_name, held_bytes
from trainer.model import build
from trainer.model.adapters.quantised_shards import Shards, shard_weight
from trainer.model.attention.kernels import KERNELS
from trainer.model.inspection.examine import how_to_run

STEPS = 2
MOST_MICRO_STEPS = 2
"""Gradients of earlier passes are there from the second on; more of them take no more memory."""
DEEPSPEED_AGREEMENTS = ("assert_lst_len_same_as_other_ranks", "assert_ints_same_as_other_ranks")


def measure(config: TrainerConfig, rank: int, counted: bool) -> dict[str, Any]:
    """Run two steps as one of the plan's ranks.

    Args:
        config: the plan's trainer part.
        rank: which of them.
        counted: on fake tensors, whatever the plan's device; otherwise on it.

    Raises:
        UserError: there is no such rank, or no such device.
    """
    if not 0 <= rank < config.execution.world_size:
        raise UserError(f"there is no rank {rank}", remedy=f"ranks are 0 to {config.execution.world_size - 1}")
    if not counted and config.execution.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU here", remedy="leave out --real: memory is counted on fake tensors then")
    how_to_run(config.model)  # now: what its twin takes is no memory of the plan's
    _start_alone(config, rank)
    with contextlib.ExitStack() as stack:
        config = stack.enter_context(_as_if_there(config)) if counted else config
        allocations = stack.enter_context(Allocations())
        engine = build_engine(_model(config), config)
        found = _steps(engine, config, allocations)
    return {
        "counted": counted,
        "rank": rank,
        "world_size": config.execution.world_size,
        "device_name": "none" if counted else device_name(engine.device),
        "components_bytes": {**held_bytes(engine), "gradients": found.pop("gradients")},
        "step_seconds": None if counted else found["seconds"],
        "phases_bytes": {"forward and backward": found["micro"], "step": found["step"]},
        "allocated_bytes": max(found["micro"], found["step"]),
    }


def _start_alone(config: TrainerConfig, rank: int) -> None:
    """The fake process group, and what DeepSpeed asks the environment for."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    world = config.execution.world_size
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(world), "MASTER_ADDR": "localhost"}
    os.environ.setdefault("MASTER_PORT", "29500")  # never opened
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    if config.execution.engine == "zero3":
        os.environ.setdefault("DS_ACCELERATOR", "cpu" if config.execution.device == "cpu" else "cuda")
        importlib.import_module("deepspeed.runtime.zero.stage3")
        for module in [m for name, m in sys.modules.items() if name.startswith("deepspeed")]:
            for name in DEEPSPEED_AGREEMENTS:  # they compare with ranks that are not there
                if hasattr(module, name):
                    setattr(module, name, lambda *_, **__: None)


@contextlib.contextmanager
def _as_if_there(config: TrainerConfig) -> Iterator[TrainerConfig]:
    """Fake tensors of the CPU's, with attention that keeps what kernels for GPUs keep."""
    from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

    os.environ["DS_ACCELERATOR"] = "cpu"
    mesh, padded, apply = device_mesh.init_device_mesh, KERNELS["padded"], nn.Module._apply

    def real_mesh(*args: Any, **options: Any) -> Any:
        with unset_fake_temporarily():
            return mesh(*args, **options)

    here = config.model_copy(
        update={
            "execution": config.execution.model_copy(update={"device": "cpu"}),
            "model": config.model.model_copy(update={"attention": "padded"}),
        }
    )
    device_mesh.init_device_mesh = real_mesh
    KERNELS["padded"] = _attention_like_flash
    nn.Module._apply = _applied  # type: ignore[method-assign]
    try:
        with FakeTensorMode():
            yield here
    finally:
        device_mesh.init_device_mesh = mesh
        KERNELS["padded"] = padded
        nn.Module._apply = apply  # type: ignore[method-assign]


def _applied(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """What `Module.to` does to parameters; torch would swap fake ones, which those that are referred to refuse."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            with torch.no_grad():
                tensor.data = fn(tensor.data)
    return module


def _attention_like_flash(q: Any, k: Any, v: Any, *_: Any) -> torch.Tensor:
    out: torch.Tensor = _Flash.apply(*(t[0].transpose(0, 1).contiguous() for t in (q, k, v)))[None]
    return out


class _Flash(torch.autograd.Function):
    """Keeps inputs, output and the normaliser of each row, as FlashAttention does (Dao et al. 2022)."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:2], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _model(config: TrainerConfig) -> Any:
    """The trainer's model, made from its configuration alone."""
    plain = build.load_causal_lm
    build.load_causal_lm = _random_causal_lm
    try:
        model = build.build_model(config)
    finally:
        build.load_causal_lm = plain
    return model


def _random_causal_lm(config: TrainerConfig, shards: Shards | None = None, **options: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    path = config.model
    shape = AutoConfig.from_pretrained(path.path, revision=path.revision, trust_remote_code=False)
    low = config.method.kind == "lora" or config.execution.engine.startswith("zero")
    dtype = build.DTYPES[str(path.dtype)] if low else torch.float32
    model = AutoModelForCausalLM.from_config(shape, dtype=dtype, **options)
    if config.method.quantization:
        _quantise(model, config.method, config.execution.device, dtype, shards)
    return model


def _quantise(model: Any, method: MethodConfig, device: str, dtype: torch.dtype, shards: Shards | None) -> None:
    """What `from_pretrained` does with bitsandbytes: every linear layer but the output layer is packed."""
    head = model.get_output_embeddings()
    place = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device("cpu")
    for name, linear in list(model.named_modules()):
        if type(linear) is nn.Linear and linear is not head:
            packed = _packed(linear, method, dtype, place)
            if shards:
                shard_weight(packed, packed.weight, shards)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, packed)
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = method.quantization == "int8", method.quantization == "nf4"


def _packed(linear: nn.Linear, method: MethodConfig, dtype: torch.dtype, place: torch.device) -> Any:
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    sizes, weight = (linear.in_features, linear.out_features), linear.weight.data
    with unset_fake_temporarily(), torch.device("meta"):
        layer = (
            Linear8bitLt(*sizes, bias=False, has_fp16_weights=False)
            if method.quantization == "int8"
            else Linear4bit(*sizes, bias=False, compute_dtype=dtype, quant_type="nf4")
        )
    layer.bias = linear.bias
    layer.weight = _quantised_weight(weight.to(place), method)
    return layer


def _quantised_weight(weight: torch.Tensor, method: MethodConfig) -> Any:
    """What bitsandbytes' parameters hold once they are quantised; those themselves cannot wrap fake tensors."""
    from bitsandbytes import functional

    if method.quantization == "int8":
        packed, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        found: Any = nn.Parameter(packed, requires_grad=False)
        found.CB, found.SCB, found.has_fp16_weights = found.data, scales, False
        return found
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=method.double_quantization, quant_type="nf4"
    )
    found = nn.Parameter(packed, requires_grad=False)
    found.quant_state, found.compress_statistics, found.quant_type = state, method.double_quantization, "nf4"
    return found


def _batch(config: TrainerConfig) -> Batch:
    packs, length = config.execution.micro_batch, config.data.max_length
    tokens = packs * length
    places = torch.arange(tokens)
    return Batch(
        input_ids=torch.zeros(1, tokens, dtype=torch.long),
        position_ids=(places % length)[None],
        cu_seqlens=torch.arange(0, tokens + 1, length, dtype=torch.int32),
        target_index=places,
        target_ids=torch.zeros(tokens, dtype=torch.long),
        target_weights=torch.ones(tokens),
        padded_index=places.view(packs, length),
        restore_index=places,
        max_seqlen=length,
        supervised=tokens,
    )


def _steps(engine: Engine, config: TrainerConfig, allocations: Allocations) -> dict[str, Any]:
    """Two steps; the second one counts: moments and buffers are there by then."""
    batch, accumulation = _batch(config).to(engine.device), config.execution.accumulation
    passes = min(accumulation, MOST_MICRO_STEPS)
    found: dict[str, Any] = {}
    for _ in range(STEPS):
        before = _begin(engine, allocations)
        began = time.perf_counter()
        for number in range(passes):
            engine.micro_step(batch, 1.0, number == passes - 1)
        found["micro"], gradients = _peak(engine, allocations), _held(engine, allocations) - before
        middle = time.perf_counter()
        _begin(engine, allocations)
        engine.optimizer_step(1e-6)
        found["step"] = _peak(engine, allocations)
        found["gradients"] = max(gradients, found.get("gradients", 0))
        found["seconds"] = (middle - began) * accumulation / passes + time.perf_counter() - middle
    return found


def _begin(engine: Engine, allocations: Allocations) -> int:
    if engine.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    allocations.forget_peak()
    return _held(engine, allocations)


def _held(engine: Engine, allocations: Allocations) -> int:
    return torch.cuda.memory_allocated() if engine.device.type == "cuda" else allocations.now


def _peak(engine: Engine, allocations: Allocations) -> int:
    """The GPU's own word where there is one; what was counted else."""
    if engine.device.type != "cuda":
        return allocations.peak
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def write(run_dir: Path, found: dict[str, Any]) -> None:
    """Leave the result where the launcher looks for it: engines print on the same output."""
    from trainer.runtime.files import write_json_atomic

    write_json_atomic(run_dir / "measured.json", found)
