"""The method section: what quantisation goes with, and what it is refused beside."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainer.config import MethodConfig

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "full", "quantization": "nf4"}, "quantization only act with `kind: lora`"),
    ({"kind": "lora", "quantization": "int8", "double_quantization": False}, "only acts with `quantization: nf4`"),
    ({"kind": "lora", "double_quantization": False}, "only acts with `quantization: nf4`"),
    ({"kind": "lora", "quantization": "fp4"}, "'nf4' or 'int8'"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MethodConfig(**settings)


@pytest.mark.parametrize("kind", ["nf4", "int8", None])
def test_what_a_plan_writes_is_read_again(kind: str | None) -> None:
    method = MethodConfig(kind="lora", quantization=kind)
    assert MethodConfig.model_validate(method.model_dump()) == method
