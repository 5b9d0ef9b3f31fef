"""Imported once by the fork server, so that ranks start with everything loaded."""

import gc
import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import deepspeed.runtime.zero.muon.muon_optimizer
import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2
import peft.tuners.lora  # noqa: F401
import torch.distributed.tensor
import torch.utils.tensorboard  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import conversion_mapping

import trainer.checkpoint.export
import trainer.data.prepare
import trainer.engines.fsdp2
import trainer.engines.zero
import trainer.run.loop  # noqa: F401

# What every rank would do again in its first second: hundreds of patterns compiled, and DeepSpeed's search for kernels.
conversion_mapping.get_checkpoint_conversion_mapping("llama")
len(deepspeed.ops.__compatible_ops__)
gc.collect()
gc.freeze()  # a rank's own collections need not look at all this
