"""DeepSpeed ZeRO 0 to 3.

Gradients are summed like everywhere here: DeepSpeed divides by the number of ranks, so the loss is multiplied by it.
The float32 master copy and the moments are DeepSpeed's; `ranges()` shows the parts that this rank owns.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainer.config import TrainerConfig
from trainer.data.pack.batch import Batch
from trainer.engines.base import (
    MOMENTS,
    Engine,
    Range,
    adamw,
    fresh_moments,
    materialise_moments,
    parameter_groups,
    rank_device,
    set_learning_rate,
)
from trainer.model.sharing import materialise, replace_tensors, share_buffers
from trainer.model.supervised import SupervisedModel, decoder_layers, trainable_parameters

LARGEST_BUCKET = 200_000_000  # elements
NO_CLIPPING = 1e30  # DeepSpeed computes the norm only when it clips


class ZeroEngine(Engine):
    """`deepspeed.initialize` around the model, with our optimizer."""

    def __init__(self, model: SupervisedModel, config: TrainerConfig) -> None:
        if config.execution.device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # An all-reduce through shared memory that is compiled when training starts: a minute, for CPU ranks only.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.model = model
        self.stage = int(config.execution.engine[-1])
        self._world_size = config.execution.world_size
        settings = deepspeed_config(config, sum(p.numel() for _, p in trainable_parameters(model)))
        if model.shared:
            self._hand_out(config, settings)
        optimizer = adamw(parameter_groups(model, config.training), config.training)
        self._engine, self._outer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )
        self.device = torch.device(self._engine.device)
        self._adamw = getattr(self._outer, "optimizer", self._outer)
        self.replicated = not self._partitioned
        self._max_grad_norm = config.training.max_grad_norm or NO_CLIPPING
        fresh_moments(self._adamw, self._masters())

    def _hand_out(self, config: TrainerConfig, settings: dict[str, Any]) -> None:
        """Memory for the first rank's weights, which DeepSpeed broadcasts; for ZeRO 3 one layer at a time, in parts."""
        device = rank_device(config.execution.device)
        share_buffers(self.model, device)
        if self.stage < 3:
            materialise(self.model, device)
            return
        for unit in (*decoder_layers(self.model), self.model):
            self._partition_now(unit, device, settings)

    def _partition_now(self, unit: nn.Module, device: torch.device, settings: dict[str, Any]) -> None:
        from deepspeed.runtime.zero.partition_parameters import Init

        low = torch.bfloat16 if settings["bf16"]["enabled"] else torch.float32

        def ready(tensor: torch.Tensor) -> torch.Tensor:
            """On its way to DeepSpeed, which moves what is here to the device, and broadcasts it."""
            if not isinstance(tensor, nn.Parameter) or hasattr(tensor, "ds_id"):
                return tensor
            return torch.empty_like(tensor, device=device, dtype=low) if tensor.is_meta else tensor.detach().to(low)

        replace_tensors(unit, ready)
        Init(module=unit, config_dict_or_path=settings, dtype=low)

    @property
    def _partitioned(self) -> bool:
        return self._outer is not self._adamw

    def micro_step(self, batch: Batch, scale: float, last: bool) -> torch.Tensor:
        self._engine.train()
        self._engine.set_gradient_accumulation_boundary(last)
        loss: torch.Tensor = self._engine(batch)
        self._engine.backward(loss * (scale * self._world_size), scale_wrt_gas=False)
        if not last:
            self._engine.step()
        return loss.detach()

    def optimizer_step(self, learning_rate: float) -> torch.Tensor:
        set_learning_rate(self._outer, learning_rate)
        set_learning_rate(self._adamw, learning_rate)
        if not self._partitioned:  # plain data parallelism: DeepSpeed would clip, but not say the norm
            norm = nn.utils.clip_grad_norm_([p for _, p in trainable_parameters(self.model)], self._max_grad_norm)
            self._engine.step()
            return norm
        self._engine.step()
        global_norm = self._engine.get_global_grad_norm()
        return global_norm if isinstance(global_norm, torch.Tensor) else torch.tensor(float(global_norm))

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> torch.Tensor:
        self._engine.eval()
        loss: torch.Tensor = self._engine(batch, plain=True)
        return loss

    def ranges(self) -> list[Range]:
        found: list[Range] = []
        for name, parameter in trainable_parameters(self.model):
            if self.stage == 3:
                found += self._partition(name, parameter)
            elif self._partitioned:
                found += self._fragment(name, parameter)
            else:
                found += self._whole(name, parameter)
        return found

    def _whole(self, name: str, parameter: nn.Parameter) -> list[Range]:
        state = self._adamw.state[parameter]
        tensors = {"param": parameter.detach(), **{moment: state[moment] for moment in MOMENTS}}
        return [Range(name, kind, 0, tuple(parameter.shape), t.reshape(-1)) for kind, t in tensors.items()]

    def _fragment(self, name: str, parameter: Any) -> list[Range]:
        """ZeRO 1 and 2: the part of a parameter that falls into this rank's slice of the flat group."""
        mapping = parameter._hp_mapping
        if mapping is None:
            return []
        part, address = mapping.lp_fragment_address, mapping.get_hp_fragment_address()
        flat = self._masters()[mapping.param_group_index]
        tensors = {"param": flat.detach(), **{moment: self._adamw.state[flat][moment] for moment in MOMENTS}}
        return [
            Range(name, kind, part.start, tuple(parameter.shape), t.narrow(0, address.start, address.numel))
            for kind, t in tensors.items()
        ]

    def _masters(self) -> list[torch.Tensor]:
        """The float32 tensors that AdamW updates: parameters themselves, or DeepSpeed's flat partitions of them."""
        outer: Any = self._outer
        if not self._partitioned:
            return [parameter for _, parameter in trainable_parameters(self.model)]
        for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
            if hasattr(outer, name):
                return list(getattr(outer, name))
        raise TypeError(f"unknown DeepSpeed optimizer {type(outer).__name__}")

    def _partition(self, name: str, parameter: Any) -> list[Range]:
        """ZeRO 3: this rank's equal part of each parameter, without the padding at its end."""
        outer: Any = self._outer
        group, offset, _ = outer.grad_position[outer.get_param_id(parameter)]
        flat = outer.fp32_partitioned_groups_flat[group]
        size = parameter.ds_tensor.ds_numel
        start = size * dist.get_rank()
        length = max(0, min(size, parameter.ds_numel - start))
        tensors = {"param": flat.detach(), **{moment: self._adamw.state[flat][moment] for moment in MOMENTS}}
        return [
            Range(name, kind, start, tuple(parameter.ds_shape), t.narrow(0, offset, length))
            for kind, t in tensors.items()
            if length
        ]

    def full_gradient(self, parameter: nn.Parameter) -> torch.Tensor:
        from deepspeed.utils import safe_get_full_grad

        gradient: torch.Tensor | None = safe_get_full_grad(parameter)
        gradient = parameter.grad if gradient is None else gradient
        assert gradient is not None
        return gradient

    def after_load(self, step: int) -> None:
        materialise_moments(self._adamw, self._masters(), step)
        if self.stage == 3:
            self._refresh_partitions()
        elif self._partitioned:
            self._outer.update_lp_params()

    def _refresh_partitions(self) -> None:
        outer: Any = self._outer
        for low, master in zip(outer.fp16_partitioned_groups_flat, outer.fp32_partitioned_groups_flat, strict=True):
            low.data.copy_(master.data)
        persistent = outer.persistent_parameters
        if persistent:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)


def deepspeed_config(config: TrainerConfig, trainable: int) -> dict[str, Any]:
    """DeepSpeed's own configuration for a job.

    Args:
        trainable: number of trainable parameters. DeepSpeed allocates whole buckets (0.5e9 elements by default) in
            every step, so they are never larger than the model.
    """
    execution = config.execution
    bucket = max(1, min(trainable, LARGEST_BUCKET))
    # Without ZeRO, DeepSpeed refuses bfloat16 weights with float32 gradients; adapters are float32 on any base.
    low = config.model.dtype == "bfloat16" and not (execution.engine == "zero0" and config.method.kind == "lora")
    plain = execution.engine == "zero0" and not low
    return {
        "train_micro_batch_size_per_gpu": 1,  # one flat row
        "gradient_accumulation_steps": execution.accumulation,
        "gradient_clipping": 0.0 if plain else config.training.max_grad_norm or NO_CLIPPING,
        "bf16": {"enabled": low},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": int(execution.engine[-1]),
            "overlap_comm": execution.device == "cuda",
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 2**31,
    }
