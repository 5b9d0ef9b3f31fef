"""Imported once by the fork server, so that ranks start with everything loaded."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed.runtime.zero.stage3  # noqa: E402, F401
import deepspeed.runtime.zero.stage_1_and_2  # noqa: E402, F401
import peft.tuners.lora  # noqa: E402, F401
import torch.distributed.tensor  # noqa: E402, F401
import torch.utils.tensorboard  # noqa: E402, F401
import transformers.models.llama.modeling_llama  # noqa: E402, F401

import trainer.data.prepare  # noqa: E402, F401
import trainer.engines.fsdp2  # noqa: E402, F401
import trainer.engines.zero  # noqa: E402, F401
import trainer.export  # noqa: E402, F401
import trainer.loop  # noqa: E402, F401
