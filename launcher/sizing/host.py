"""Host memory at load and in training, and what lies on disk."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.memory.inputs import MemoryInput
from launcher.sizing.memory.states import Parameters, loaded_bytes, packed_bytes
from launcher.sizing.trainer_model import BF16, FP32
from rundir.quantities import GIB

RUNTIME_GIB = 4.0
"""Python, torch, CUDA libraries, a data loader, and pinned buffers of one rank: 3 to 5 GiB resident."""
TOKEN_BYTES = 4
"""An int32 token in the packed store."""
INDEX_SHARE = 0.05
"""Offsets and masks beside tokens."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """Host memory of one node in GiB.

    Attributes:
        load: While weights are read: the head node, whose first rank reads them all, where nothing packs them.
        load_elsewhere: The same of the other nodes: their ranks hold no weights until they are handed their shards.
        load_naive: If every rank of the node reads the whole model, as many scripts do.
        training: Runtime, offloaded states and activations.
    """

    load: float
    load_elsewhere: float
    load_naive: float
    training: float

    def as_json(self) -> dict[str, float]:
        """Plain numbers."""
        names = ("load", "load_elsewhere", "load_naive", "training")
        return {f"{name}_gib": round(getattr(self, name), 1) for name in names}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Space on disk in GiB.

    Attributes:
        model: The weights as published, in two bytes.
        checkpoint: One full checkpoint of a run.
        checkpoints: All that stay, and the one that is being written.
        export: The model that comes out: weights, or adapters alone.
        data: The packed store of the training data.
    """

    model: float
    checkpoint: float
    checkpoints: float
    export: float
    data: float

    def as_json(self) -> dict[str, float]:
        """Plain numbers."""
        return {f"{name}_gib": round(getattr(self, name), 2) for name in self.__dataclass_fields__}


def offloaded_bytes(given: MemoryInput) -> float:
    """States of one rank in host memory.

    ZeRO-Offload (Ren et al. 2021, arXiv 2101.06840): 12 bytes of master and moments, and 4 of the gradient, per
    trained parameter of the partition; parameters add two bytes each.
    """
    if not given.layout.offload:
        return 0.0
    p = Parameters(given)
    states = p.trained * (3 * FP32 + FP32) / given.layout.shards_from(1)
    if given.layout.offload != "all":
        return states
    frozen = (p.base - p.quantised) * BF16 + (
        packed_bytes(p.quantised, given.layout.quantization) if p.quantised else 0
    )
    return states + frozen / given.layout.shards_from(3)


def host(given: MemoryInput, ranks: int) -> Host:
    """Host memory of a node that runs so many ranks.

    Loading on every rank is what transformers PR 25107 describes: 8 ranks of Falcon-40B took 1.28 TB. Our first rank
    reads one copy for the whole job, in the type in which weights are kept: four bytes for full fine-tunes under FSDP2.
    Weights that are packed are so on every rank's GPU, one layer after the other, and no host holds more.
    """
    shape, each_load = given.shape, RUNTIME_GIB
    whole = shape.num_parameters * loaded_bytes(given) / GIB
    if given.layout.quantization:
        each_load += max(shape.layer_parameters, shape.root_parameters) * loaded_bytes(given) / GIB
    kept = 0.0
    if given.layout.checkpointing == "offload":
        kept = shape.num_layers * given.trainer.activation_bytes * shape.hidden_size * given.layout.tokens / GIB
    each = RUNTIME_GIB + offloaded_bytes(given) / GIB + kept
    return Host(
        load=ranks * each_load + (0 if given.layout.quantization else whole),
        load_elsewhere=ranks * each_load,
        load_naive=ranks * (whole + RUNTIME_GIB),
        training=ranks * each,
    )


def disk(given: MemoryInput, keep: int, data_tokens: int) -> Disk:
    """Space for checkpoints and data.

    A checkpoint holds float32 weights and both moments of what trains: 12 bytes a parameter (8-bit moments: 4 + 2).
    """
    p = Parameters(given)
    trained = p.adapters if given.layout.adapters else given.shape.num_parameters
    each = FP32 + (2 if "8bit" in given.trainer.optimizer else 2 * FP32)
    checkpoint = trained * each / GIB
    export = (trained * FP32 if given.layout.adapters else trained * BF16) / GIB
    return Disk(
        model=given.shape.num_parameters * BF16 / GIB,
        checkpoint=checkpoint,
        checkpoints=checkpoint * (keep + 1),
        export=export,
        data=data_tokens * TOKEN_BYTES * (1 + INDEX_SHARE) / GIB,
    )
