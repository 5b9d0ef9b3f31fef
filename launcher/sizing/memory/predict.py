"""The peak of one rank: the largest of the phases of a run, each with what is alive in it."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.sizing.memory import activations as act
from launcher.sizing.memory import buffers, states
from launcher.sizing.memory.settings import BF16, Job
from rundir.quantities import GIB

SMALL_BUFFERS = int(0.05 * GIB)
"""Rotary tables, masks, indices, cuBLAS workspace: the remainder of the simplest rows."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is alive in one phase of a run, in bytes by component."""

    name: str
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes of the phase."""
        return sum(self.parts.values())


def phases(job: Job) -> list[Phase]:
    """All phases of a run on one rank."""
    backward = [_backward_top(job), _backward_bottom(job)]
    if job.is_fsdp and not job.adapters and job.sharded_over > 1:
        backward.append(_backward_root(job))
    found = [_load(job), _loss(job), *backward, _step(job), _evaluate(job), _save(job)]
    return [_paged(job, phase) for phase in found]


def peak(job: Job) -> Phase:
    """The phase of training that needs most; loading, evaluating and saving have ways around their peaks."""
    return max((phase for phase in phases(job) if phase.name in TRAINING), key=lambda phase: phase.total)


TRAINING = ("loss", "backward", "backward_end", "backward_root", "step")


def _phase(name: str, **parts: float) -> Phase:
    return Phase(name=name, parts={part: int(size) for part, size in parts.items() if size >= 1})


def _standing(job: Job) -> dict[str, float]:
    """Model states that are there in every phase of a step."""
    offloaded = job.offload == "all"
    return {
        "weights": 0.0 if offloaded else states.weight_bytes(job),
        "moments": states.moment_bytes(job),
        "master_weights": states.master_bytes(job),
        "small": SMALL_BUFFERS,
    }


def _held_gradients(job: Job) -> float:
    """Gradients that wait in the forward pass: of earlier passes of a step, and flat partitions of ZeRO 2 and 3."""
    waiting = job.accumulation > 1 and not job.in_backward
    flat = job.engine in ("zero2", "zero3", "megatron")
    return states.gradient_bytes(job) if waiting or flat else 0.0


def _loss(job: Job) -> Phase:
    """The end of the forward pass: everything that layers keep, and the logits."""
    return _phase(
        "loss",
        **_standing(job),
        gradients=_held_gradients(job),
        stored_activations=act.stored_bytes(job) * job.tokens,
        logits=act.loss_bytes(job) / _loss_stages(job),
        gathered=buffers.gathered_bytes(job, 0),
        casts=states.autocast_cache_bytes(job),
    )


def _loss_stages(job: Job) -> int:
    """Only the last stage of a pipeline has logits, and the first has most activations: never both."""
    return job.pp


def _backward_top(job: Job) -> Phase:
    """The last layer's backward pass: all stored inputs are there, and one layer's activations."""
    head = act.trained_head_bytes(job) if job.pp == 1 and not job.in_backward else 0.0
    return _phase(
        "backward",
        **_standing(job),
        gradients=max(_held_gradients(job), head),
        stored_activations=act.stored_bytes(job) * job.tokens,
        layer_activations=_live_layer(job) * job.tokens,
        final_norm=act.top_bytes(job) * job.tokens,
        gathered=buffers.gathered_bytes(job, job.regime.prefetched_blocks),
        reduce_buffers=buffers.reduce_buffer_bytes(job) if job.is_deepspeed else 0.0,
        dequantised=states.dequantised_bytes(job),
    )


def _live_layer(job: Job) -> float:
    """Bytes per token of the layer at work, beyond what is stored of it."""
    whole = act.layer_peak_bytes(job)
    if job.checkpointing in ("full", "offload"):
        return whole
    return max(0.0, whole + act.input_bytes(job) - act.layer_saved_bytes(job))


def _backward_bottom(job: Job) -> Phase:
    """The first layer's backward pass: all gradients are there, and what FSDP1 retains."""
    layers = max(1, job.shape.num_layers // job.pp)
    return _phase(
        "backward_end",
        **_standing(job),
        gradients=states.gradient_bytes(job),
        stored_activations=max(act.stored_bytes(job) / layers, act.retained_bytes(job)) * job.tokens,
        layer_activations=_live_layer(job) * job.tokens,
        gathered=buffers.gathered_bytes(job, 1),
        reduce_buffers=buffers.reduce_buffer_bytes(job),
        dequantised=states.dequantised_bytes(job),
    )


def _backward_root(job: Job) -> Phase:
    """FSDP's root group at the very end: embeddings and head whole, their gradients, and those on their way.

    No activation is left. FSDP2 copies gradients into one buffer of the reduced type (`foreach_reduce`); FSDP1
    reduces its flat gradient as it is.
    """
    root = buffers.root_bytes(job)
    copied = root * job.regime.reduce_bytes / BF16 if job.engine == "fsdp2" else 0.0
    return _phase(
        "backward_root",
        **_standing(job),
        gradients=states.gradient_bytes(job),
        gathered=buffers.gathered_bytes(job, 0),
        root_gradients=root,
        reduce_buffers=copied,
    )


def _step(job: Job) -> Phase:
    """The optimizer step: gradients whole, no activations, and the step's own temporaries."""
    return _phase("step", **_standing(job), gradients=states.gradient_bytes(job), step_temporary=states.step_bytes(job))


def _load(job: Job) -> Phase:
    """Loading: weights, what is whole on its way to its shards, and one projection in the compute type while it is
    quantised."""
    return _phase(
        "load",
        weights=states.weight_bytes(job),
        arriving=states.arriving_bytes(job),
        quantising=states.dequantised_bytes(job),
    )


def _evaluate(job: Job) -> Phase:
    """A forward pass without graph: one layer's activations, and half of the copies of the logits."""
    logits = act.loss_bytes(job) - act.head_gradient_bytes(job)
    return _phase(
        "eval",
        **_standing(job),
        layer_activations=act.layer_peak_bytes(job) / 2 * job.tokens,
        logits=logits / 2,
        gathered=buffers.gathered_bytes(job, job.regime.prefetched_blocks),
    )


def _save(job: Job) -> Phase:
    """Saving shard by shard needs nothing more; one gathered layer where tensors are written whole."""
    return _phase("save", **_standing(job), gathered=buffers.block_bytes(job) if job.sharded_over > 1 else 0.0)


def _paged(job: Job, phase: Phase) -> Phase:
    """The phase after a paged optimizer has moved what does not fit."""
    away = int(states.paged_out_bytes(job, phase.total))
    if not away:
        return phase
    return Phase(name=phase.name, parts=phase.parts | {"moments": phase.parts.get("moments", 0) - away})
