"""docs/architecture.md tells the truth: its picture is the code's, and its table leads somewhere."""

import re
from pathlib import Path

import pytest

from benchmarks.structure import arrows_of, cycles_and_floors, folders, modules, picture, shape

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
KNOWN = modules(ROOT)
MODULES_AT_ROOT = 6
"""A folder that has folders answers one question; modules beside them are what all of it uses."""
FLAT_MODULES = 16
"""Of a folder without folders. The command line's has a module for each verb."""


@pytest.mark.parametrize("folder", folders(KNOWN))
def test_no_folder_has_an_import_cycle(folder: str) -> None:
    assert cycles_and_floors(arrows_of(folder, KNOWN))[0] == []


@pytest.mark.parametrize("folder", folders(KNOWN))
def test_the_root_of_a_package_holds_few_modules(folder: str) -> None:
    has_folders = any(path.parent.parent == KNOWN[folder].parent for path in map(KNOWN.get, folders(KNOWN)) if path)
    limit = MODULES_AT_ROOT if has_folders else FLAT_MODULES
    if folder != "launcher.cli":
        assert shape(folder, KNOWN)["modules_at_root"] <= limit


def test_the_picture_is_the_codes() -> None:
    (drawn,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    assert drawn.splitlines() == picture(KNOWN), "run: python -m benchmarks.structure --picture"


ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE.partition("## I want to change")[2], re.MULTILINE)[1:]
NAMED = [(change, target) for change, targets in ROWS for target in re.findall(r"`([\w./*-]+)(?::\w+)?`", targets)]


def test_the_table_has_twenty_rows() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize(("change", "target"), NAMED)
def test_every_place_that_the_table_names_is_there(change: str, target: str) -> None:
    assert list(ROOT.glob(target.rstrip("/"))), change


@pytest.mark.parametrize(
    ("path", "name"), re.findall(r"`([\w./-]+\.py):(\w+)`", PAGE.partition("## I want to change")[2])
)
def test_every_name_that_the_table_gives_is_defined_there(path: str, name: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^(def|class) {name}\b|^{name}\b.*=", text, re.MULTILINE)
