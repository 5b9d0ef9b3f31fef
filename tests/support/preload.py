"""Imported once by the fork server, so that ranks start with everything loaded."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2  # noqa: F401
import peft.tuners.lora  # noqa: F401
import torch.distributed.tensor
import torch.utils.tensorboard  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import trainer.data.prepare
import trainer.engines.fsdp2
import trainer.engines.zero
import trainer.export
import trainer.loop  # noqa: F401
