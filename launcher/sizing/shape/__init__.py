"""The shape of a model: exact tensors and parameter counts from `config.json` or a name, without torch."""

from launcher.sizing.shape.catalogue import (
    config_by_name,
    find_model,
    model_names,
    shape_by_name,
    shape_by_size,
    size_in_name,
)
from launcher.sizing.shape.config import (
    is_described,
    known_model_type,
    read_config,
    read_shape,
    shape_from_config,
)
from launcher.sizing.shape.counted import shape_of_folder
from launcher.sizing.shape.experts import without_adapters
from launcher.sizing.shape.families import ARCHITECTURES, Architecture
from launcher.sizing.shape.headers import read_headers
from launcher.sizing.shape.lora import lora_parameters, refused_adapters, targeted
from launcher.sizing.shape.model import ModelShape
from launcher.sizing.shape.parts import Layer, Linear, Tensor

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "Layer",
    "Linear",
    "ModelShape",
    "Tensor",
    "config_by_name",
    "find_model",
    "is_described",
    "known_model_type",
    "lora_parameters",
    "model_names",
    "read_config",
    "read_headers",
    "read_shape",
    "refused_adapters",
    "shape_by_name",
    "shape_by_size",
    "shape_from_config",
    "shape_of_folder",
    "size_in_name",
    "targeted",
    "without_adapters",
]
