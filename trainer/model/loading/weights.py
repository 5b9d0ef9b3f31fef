"""Whether a model's files hold exactly the weights that its architecture has: what they lack would train from noise.

The same code of Transformers that reads the weights compares them, so what an architecture derives by itself (tied
tensors, buffers that are computed, experts that are stored one by one) is no fault. Before a run the comparison needs
the files' headers only: tensors without memory are loaded into a model without memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_log

from trainer.config import ModelConfig
from trainer.errors import UserError
from trainer.model_files.headers import Headers, weight_headers

MOST_NAMES = 12
COMPARED_ROWS = 64
BESIDE = re.compile(
    r"(^|\.)(mtp\w*|nextn\w*|visual|vision_\w+|vit|image_newline|img_\w+|mm_projector|multi_modal_projector"
    r"|audio_\w+|embed_audio|embed_vision|talker|code2wav|token2wav)\."
)
"""Parts beside the language model: heads that predict several tokens, and towers for pictures and sound."""
COMPUTED = re.compile(r"(^|\.)(masked_bias|inv_freq|position_ids|rope_freqs|freqs_cis)$")
"""Tables that older releases stored, and that every model computes by itself."""


def load_complete(path: str, **options: Any) -> Any:
    """`AutoModelForCausalLM.from_pretrained` that ends with an error when any weight is missing, spare or misshapen.

    Args:
        path: a model, or an adapter that brings its base along.
        options: of `from_pretrained`.

    Raises:
        UserError: the files do not hold what the model has; names them.
    """
    model, info = _quietly(AutoModelForCausalLM, path, use_safetensors=True, **options)  # never pickle
    faults, _ = compared(model, info)
    refuse(faults, path)
    return model


def checked_headers(model: ModelConfig) -> dict[str, Any]:
    """Compare the headers of a model's files with its architecture; reads no weights.

    Returns:
        {"tensors": how many the files hold, "beside": those that are not of the language model, shortened}; empty
        when the files are not on this machine and the hub cannot be asked: reading them will tell.

    Raises:
        UserError: as of `load_complete`.
    """
    headers = weight_headers(model)
    if headers is None:
        return {}
    config = AutoConfig.from_pretrained(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code))
    try:
        skeleton, info = _quietly(
            kind,
            None,
            config=config,
            state_dict={name: torch.empty(shape, device="meta") for name, shape in headers.shapes.items()},
            device_map={"": "meta"},
            dtype=torch.float32,
        )
    except RuntimeError as error:
        raise UserError(f"the weights in {model.path} cannot be put into the model: {error}") from error
    faults, beside = compared(skeleton, info)
    faults += _untied(skeleton, headers)
    refuse(faults, model.path)
    return {"tensors": len(headers.shapes), "beside": beside}


def _quietly(kind: Any, path: str | None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Model and report of `from_pretrained`, which would also print a table of what is said here in words."""
    before = transformers_log.get_verbosity()
    transformers_log.set_verbosity_error()
    if path is None:  # nothing is read, so there is no progress to show
        transformers_log.disable_progress_bar()
    try:
        found: tuple[Any, dict[str, Any]] = kind.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        return found
    finally:
        transformers_log.set_verbosity(before)
        transformers_log.enable_progress_bar()


def compared(model: Any, info: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What is wrong with the weights of a model that has been loaded, and which tensors belong to parts beside it.

    Args:
        info: as `from_pretrained` gives it.
    """
    unknown = [name for name in info["unexpected_keys"] if not _is_computed(model, name)]
    beside = [name for name in unknown if BESIDE.search(f"{name}.") or _is_spare_layer(model, name)]
    missing, unknown = sorted(info["missing_keys"]), sorted(set(unknown) - set(beside))
    faults = []
    if prefix := _prefix(missing, unknown):
        faults.append(
            f"the files hold all {len(missing)} tensors of the model below {prefix!r}, where it does not look"
        )
    if missing:
        faults.append(f"the files lack {len(missing)} tensors of the model: {_names(missing)}")
    if unknown and not prefix:
        faults.append(f"the files hold {len(unknown)} tensors that the model does not have: {_names(unknown)}")
    for name, stored, wanted in sorted(info["mismatched_keys"])[:MOST_NAMES]:
        faults.append(f"{name} is {list(stored)} in the files and {list(wanted)} in the model")
    faults += [str(message) for message in info.get("error_msgs") or []]
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    faults += [_two_heads(a, b) for a, b in tied.items() if a not in getattr(model, "all_tied_weights_keys", tied)]
    return faults, shortened(beside)


def refuse(faults: list[str], path: str) -> None:
    """Raises:
    UserError: there are faults.
    """
    if not faults:
        return
    untied = len(faults) == 1 and "lack" in faults[0] and "lm_head" in faults[0]
    raise UserError(
        f"the weights are not those of the model that config.json describes: {'; '.join(faults)}",
        where=path,
        remedy="what is missing would be trained from random numbers: copy all weight files again, with their index, "
        "and take the config.json that was saved beside them"
        + ("; a model whose output layer is its embedding needs `tie_word_embeddings: true` there" if untied else ""),
    )


def numberless(name: str) -> str:
    """A name with a star for every number in it: one for all layers and experts."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def shortened(names: Iterable[str]) -> list[str]:
    """Names with the numbers in them drawn together: `layers.{0..31}.weight`."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        first = re.search(r"(?<=\.)\d+(?=\.)", name)
        pattern = name if first is None else f"{name[: first.start()]}{{}}{name[first.end() :]}"
        numbers.setdefault(pattern, set()).update({int(first.group())} if first else ())
    return [p.replace("{}", _ranges(sorted(found))) if found else p for p, found in sorted(numbers.items())]


def _ranges(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    whole = numbers == list(range(numbers[0], numbers[-1] + 1)) and len(numbers) > 2
    return f"{{{numbers[0]}..{numbers[-1]}}}" if whole else f"{{{','.join(map(str, numbers))}}}"


def _names(names: list[str]) -> str:
    short = shortened(names)
    more = len(short) - MOST_NAMES
    return ", ".join(short[:MOST_NAMES]) + (f" and {more} more kinds" if more > 0 else "")


def _prefix(missing: list[str], unknown: list[str]) -> str:
    """What stands before every missing name in the files."""
    if not missing or not unknown or not unknown[0].endswith(missing[0]):
        return ""
    prefix = unknown[0].removesuffix(missing[0])
    return prefix if [prefix + name for name in missing] == unknown else ""


def _is_computed(model: Any, name: str) -> bool:
    """A table that the module computes by itself, and that these files hold all the same."""
    owner, _, last = name.rpartition(".")
    if COMPUTED.search(name):
        return True
    for prefix in ("", f"{model.base_model_prefix}."):
        try:
            return last in model.get_submodule(prefix + owner)._buffers
        except AttributeError:
            continue
    return False


def _is_spare_layer(model: Any, name: str) -> bool:
    """A layer after the last one, which predicts a token further ahead (DeepSeek-V3 and its kin)."""
    config = model.config.get_text_config()
    spare = getattr(config, "num_nextn_predict_layers", None) or 0
    found = re.search(r"(^|\.)layers\.(\d+)\.", name)
    last = getattr(config, "num_hidden_layers", 0)
    return bool(found) and last <= int(found.group(2)) < last + spare  # type: ignore[union-attr]


def _two_heads(target: str, source: str) -> str:
    return f"config.json says that {target} is {source}, and the files hold two that differ"


def _untied(skeleton: Any, headers: Headers) -> Iterator[str]:
    """Tied tensors that both lie in the files, and are not the same."""
    for target, source in skeleton.get_expanded_tied_weights_keys(all_submodels=True).items():
        parts = [headers.files.get(name) for name in (target, source)]
        if all(parts) and not _same_rows(
            *((Path(str(f)), name) for f, name in zip(parts, (target, source), strict=True))
        ):
            yield _two_heads(target, source)


def _same_rows(one: tuple[Path, str], other: tuple[Path, str]) -> bool:
    rows = []
    for file, name in (one, other):
        with safe_open(file, "pt") as opened:
            rows.append(opened.get_slice(name)[:COMPARED_ROWS])
    return rows[0].shape == rows[1].shape and bool(torch.equal(rows[0], rows[1]))
