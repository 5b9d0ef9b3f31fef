"""The peak of one rank: the largest of the phases of a run, each with what is alive in it."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.memory import activations as act
from launcher.sizing.memory import buffers, states
from launcher.sizing.memory.inputs import MemoryInput
from rundir.quantities import GIB

SMALL_BUFFERS = int(0.05 * GIB)
"""Rotary tables, masks, indices, cuBLAS workspace: the remainder of the simplest rows. The CPU's is counted with its
process."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is alive in one phase of a run, in bytes by component."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of the phase."""
        return sum(self.parts.values())


def phases(given: MemoryInput) -> list[Phase]:
    """All phases of a run on one rank."""
    backward = [_backward_top(given), _backward_bottom(given)]
    if given.layout.is_fsdp and not given.layout.adapters and given.layout.sharded_over > 1:
        backward.append(_backward_root(given))
    found = [_load(given), _loss(given), *backward, _step(given), _evaluate(given), _save(given)]
    return [_paged(given, phase) for phase in found]


def peak(given: MemoryInput) -> Phase:
    """The phase of training that needs most; loading, evaluating and saving have ways around their peaks."""
    return max((phase for phase in phases(given) if phase.name in TRAINING), key=lambda phase: phase.total)


TRAINING = ("loss", "backward", "backward_end", "backward_root", "step")


def _phase(name: str, **parts: float) -> Phase:
    return Phase(name=name, parts={part: int(size) for part, size in parts.items() if size >= 1})


def _standing(given: MemoryInput) -> dict[str, float]:
    """Model states that are there in every phase of a step."""
    offloaded = given.layout.offload == "all"
    return {
        "weights": 0.0 if offloaded else states.weight_bytes(given),
        "moments": states.moment_bytes(given),
        "master_weights": states.master_bytes(given),
        "small": 0.0 if given.hardware.is_cpu else SMALL_BUFFERS,
    }


def _held_gradients(given: MemoryInput) -> float:
    """Gradients that wait in the forward pass: of earlier passes of a step, and flat partitions of ZeRO 2 and 3."""
    waiting = given.layout.accumulation > 1 and not given.trainer.in_backward
    flat = given.layout.engine in ("zero2", "zero3", "megatron")
    return states.gradient_bytes(given) if waiting or flat else 0.0


def _loss(given: MemoryInput) -> Phase:
    """The end of the forward pass: everything that layers keep, and the logits.

    Only the last stage of a pipeline has logits, and the first has most activations: never both.
    """
    return _phase(
        "loss",
        **_standing(given),
        gradients=_held_gradients(given),
        stored_activations=act.stored_bytes(given) * given.layout.tokens,
        logits=act.loss_bytes(given) / given.layout.pp,
        gathered=buffers.gathered_bytes(given, 0),
        casts=states.autocast_cache_bytes(given),
    )


def _backward_top(given: MemoryInput) -> Phase:
    """The last layer's backward pass: all stored inputs are there, and one layer's activations."""
    head = act.trained_head_bytes(given) if given.layout.pp == 1 and not given.trainer.in_backward else 0.0
    return _phase(
        "backward",
        **_standing(given),
        gradients=max(_held_gradients(given), head),
        stored_activations=act.stored_bytes(given) * given.layout.tokens,
        layer_activations=_live_layer(given) * given.layout.tokens,
        final_norm=act.top_bytes(given) * given.layout.tokens,
        gathered=buffers.gathered_bytes(given, given.trainer.prefetched_blocks),
        reduce_buffers=buffers.reduce_buffer_bytes(given) if given.layout.is_deepspeed else 0.0,
        dequantised=states.dequantised_bytes(given),
    )


def _live_layer(given: MemoryInput) -> float:
    """Bytes per token of the layer at work, beyond what is stored of it."""
    whole = act.layer_peak_bytes(given)
    if given.layout.checkpointing in ("full", "offload"):
        return whole
    return max(0.0, whole + act.input_bytes(given) - act.layer_saved_bytes(given))


def _backward_bottom(given: MemoryInput) -> Phase:
    """The first layer's backward pass: all gradients are there, and what FSDP1 retains."""
    layers = max(1, given.shape.num_layers // given.layout.pp)
    return _phase(
        "backward_end",
        **_standing(given),
        gradients=states.gradient_bytes(given),
        stored_activations=max(act.stored_bytes(given) / layers, act.retained_bytes(given)) * given.layout.tokens,
        layer_activations=_live_layer(given) * given.layout.tokens,
        gathered=buffers.gathered_bytes(given, 1),
        reduce_buffers=buffers.reduce_buffer_bytes(given),
        dequantised=states.dequantised_bytes(given),
    )


def _backward_root(given: MemoryInput) -> Phase:
    """FSDP's root group at the very end: embeddings and head whole, their gradients, and those on their way.

    No activation is left. FSDP2 copies gradients into one buffer of the reduced type (`foreach_reduce`); FSDP1
    reduces its flat gradient as it is.
    """
    root = buffers.root_bytes(given)
    copied = root * given.trainer.reduce_bytes / given.trainer.compute_bytes if given.layout.engine == "fsdp2" else 0.0
    return _phase(
        "backward_root",
        **_standing(given),
        gradients=states.gradient_bytes(given),
        gathered=buffers.gathered_bytes(given, 0),
        root_gradients=root,
        reduce_buffers=copied,
    )


def _step(given: MemoryInput) -> Phase:
    """The optimizer step: gradients whole, no activations, and the step's own temporaries."""
    gradients, temporary = states.gradient_bytes(given), states.step_bytes(given)
    return _phase("step", **_standing(given), gradients=gradients, step_temporary=temporary)


def _load(given: MemoryInput) -> Phase:
    """Loading: weights, what is whole on its way to its shards, and one projection in the compute type while it is
    quantised."""
    return _phase(
        "load",
        weights=states.weight_bytes(given),
        arriving=states.arriving_bytes(given),
        quantising=states.dequantised_bytes(given),
    )


def _evaluate(given: MemoryInput) -> Phase:
    """A forward pass without graph: one layer's activations, and half of the copies of the logits."""
    logits = act.loss_bytes(given) - act.head_gradient_bytes(given)
    return _phase(
        "eval",
        **_standing(given),
        layer_activations=act.layer_peak_bytes(given) / 2 * given.layout.tokens,
        logits=logits / 2,
        gathered=buffers.gathered_bytes(given, given.trainer.prefetched_blocks),
    )


def _save(given: MemoryInput) -> Phase:
    """Saving shard by shard needs nothing more; one gathered layer where tensors are written whole."""
    gathered = buffers.block_bytes(given) if given.layout.sharded_over > 1 else 0.0
    return _phase("save", **_standing(given), gathered=gathered)


def _paged(given: MemoryInput, phase: Phase) -> Phase:
    """The phase after a paged optimizer has moved what does not fit."""
    away = int(states.paged_out_bytes(given, phase.total))
    if not away:
        return phase
    return Phase(name=phase.name, parts=phase.parts | {"moments": phase.parts.get("moments", 0) - away})
