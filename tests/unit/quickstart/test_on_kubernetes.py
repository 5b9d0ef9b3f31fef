"""The quickstart on Kubernetes is the quickstart, and the README's lines are the manual's."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = ROOT / "examples" / "quickstart"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load((QUICKSTART / name).read_text(encoding="utf-8"))
    return found


def commands(document: str) -> list[list[str]]:
    """The words of every line in the document's fenced blocks, without comments."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition("  #")[0].split() for line in lines]


def test_it_is_the_same_job_on_other_machines() -> None:
    here, there = read("job.yaml"), read("kubernetes.yaml")
    moved = {"resources", "cluster"}
    assert {name: here[name] for name in here.keys() - moved} == _at_home(
        {name: there[name] for name in there.keys() - moved}
    )
    assert here["resources"] == {"gpu": "none", "cpu_ranks": 2, "engine": "auto"}
    assert there["resources"] == {"gpu": "none", "cpu_ranks": 1, "engine": "auto", "nodes": 2}
    assert read("kubernetes-values.yaml")["nodes"] == 2


def _at_home(job: Any) -> Any:
    if isinstance(job, dict):
        return {name: _at_home(value) for name, value in job.items()}
    if isinstance(job, list):
        return [_at_home(value) for value in job]
    return job.replace("/runs/quickstart-work/", "work/") if isinstance(job, str) else job


def test_the_readmes_lines_are_those_of_the_manual_which_are_tested() -> None:
    manual = [line for line in commands("docs/kubernetes.md") if "quickstart" in " ".join(line)]
    readme = [line for line in commands("README.md") if "examples/quickstart/kubernetes" in " ".join(line)]
    assert [line[:2] for line in readme] == [["tuneyard", "submit"], ["helm", "install"]]
    assert all(line in manual for line in readme)
