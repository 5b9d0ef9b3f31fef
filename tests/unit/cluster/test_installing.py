"""What is printed where a package is missing can be pasted, however Tuneyard came here."""

import json
import re
import shlex
import sys
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from cluster.submitting.installing import ROOT, install_line

METADATA = """\
Metadata-Version: 2.4
Name: tuneyard
Version: 0.1.0
Requires-Dist: click>=8.2
Provides-Extra: slurm
Requires-Dist: submitit>=1.5.4; extra == "slurm"
"""
WAYS = [
    ("git", {"url": "https://example.org/t.git", "vcs_info": {"vcs": "git", "commit_id": "a1b2"}},
     ["tuneyard[slurm] @ git+https://example.org/t.git@a1b2"]),
    ("archive", {"url": "https://example.org/t.tar.gz", "archive_info": {}},
     ["tuneyard[slurm] @ https://example.org/t.tar.gz"]),
    ("wheel that is gone", {"url": "file:///nowhere/t.whl", "archive_info": {}}, ["submitit>=1.5.4"]),
    ("index", None, ["submitit>=1.5.4"]),
]  # fmt: skip


def distribution(folder: Path, source: dict[str, object] | None) -> Distribution:
    info = folder / "tuneyard-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    if source:
        (info / "direct_url.json").write_text(json.dumps(source))
    return Distribution.at(info)


@pytest.mark.parametrize(("source", "words"), [way[1:] for way in WAYS], ids=[way[0] for way in WAYS])
def test_an_installed_package_names_where_it_came_from_or_each_requirement(
    tmp_path: Path, source: dict[str, object] | None, words: list[str]
) -> None:
    line = install_line("slurm", tmp_path, distribution(tmp_path, source))
    assert shlex.split(line) == [sys.executable, "-m", "pip", "install", *words]


def test_a_checkout_installs_itself_with_its_tested_versions() -> None:
    *pip, option, what, _, constraints = shlex.split(install_line("train"))
    assert (pip, option, what) == ([sys.executable, "-m", "pip", "install"], "-e", f"{ROOT}[train]")
    assert Path(constraints).is_file()


def test_nothing_tells_to_install_a_name_that_no_index_has() -> None:
    files = [path for folder in ("launcher", "cluster", "trainer", "rundir", "docs", "slurm") for path in
             (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", ".yaml")]  # fmt: skip
    wrong = re.compile(r"pip install ['\"]?tuneyard\b")
    assert [str(path) for path in [*files, ROOT / "README.md"] if wrong.search(path.read_text())] == [
        str(ROOT / "cluster" / "submitting" / "installing.py")
    ], "only where it is said why not"
