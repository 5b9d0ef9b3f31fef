"""Every architecture of the installed Transformers: packed against alone, in a row of its own, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = pytest.mark.models

PAGE = Path(__file__).parents[4] / "docs" / "architectures.md"


def rows() -> dict[str, str]:
    """How each family is run, as the manual says."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {family: how for family, how, _ in cells[1:]}


def test_the_page_lists_every_family_of_the_installed_transformers() -> None:
    import transformers

    from trainer.model.inspection.architectures import families

    assert list(rows()) == families()
    assert f"Transformers {transformers.__version__}" in PAGE.read_text(encoding="utf-8")
    assert sum(how in ("packed", "alone") for how in rows().values()) > 130


@pytest.mark.parametrize("family", rows())
def test_a_tiny_model_of_the_family_is_run_as_the_page_says(family: str) -> None:
    from trainer.model.inspection.architectures import verdict_of_family

    verdict = verdict_of_family(family)
    assert verdict.how == rows()[family], verdict.reason
    assert verdict.how != "refused" or verdict.reason


@pytest.mark.parametrize("family", ["bert", "roberta", "bart", "electra"])
def test_what_is_no_decoder_is_refused(family: str) -> None:
    from trainer.model.inspection.architectures import verdict_of_family

    assert verdict_of_family(family).how == "refused"
