"""The chart's files agree with each other, with the project, and with what is shipped. No Helm needed."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import launcher
from helm.readme import CHART, documentation, readme, values

ROOT = CHART.parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DOCKERFILE = (ROOT / "helm" / "image" / "Dockerfile").read_text(encoding="utf-8")


def leaves(tree: dict[str, Any], path: str = "") -> Iterator[str]:
    """Full names of all that can be set."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def known(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Full names of all that the schema knows."""
    if "$ref" in schema and "patternProperties" not in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        yield path.removesuffix(".")
    for name, inner in schema.get("properties", {}).items():
        if name != "global" and not (path.startswith("affinity") and inner == {"type": "object"}):
            yield from known(inner, f"{path}{name}.")
        elif path.startswith("affinity") and name == "nodeAffinity":
            yield "affinity"


def test_the_readme_is_generated() -> None:
    assert (CHART / "README.md").read_text(encoding="utf-8") == readme(VALUES), "run: python -m helm.readme"


def test_every_value_has_its_doc_line() -> None:
    found = {value.name: value for value in values(VALUES)}
    assert list(found) == list(leaves(yaml.safe_load(VALUES)))
    assert not [name for name, value in found.items() if not value.doc.endswith((".", "`."))]
    for name, value in found.items():
        node: Any = yaml.safe_load(VALUES)
        for key in name.split("."):
            node = node[key]
        assert yaml.safe_load(value.default) == node


def test_documentation_is_what_follows_the_dashes() -> None:
    assert documentation(["A section.", "-- One | two", "three."]) == "One \\| two three."


def test_schema_and_values_know_the_same_names() -> None:
    assert sorted(known(SCHEMA)) == sorted(leaves(yaml.safe_load(VALUES)))


def test_every_object_of_the_schema_is_closed() -> None:
    def open_ones(schema: Any, where: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("additionalProperties") is not False:
                yield where
            for key, inner in schema.items():
                yield from open_ones(inner, f"{where}/{key}")

    assert list(open_ones(SCHEMA, "")) == []


def test_the_charts_version_is_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == launcher.__version__


@pytest.mark.parametrize("path", sorted((CHART / "templates").rglob("*.*")), ids=lambda path: path.name)
def test_templates_keep_to_the_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\btpl\b|\blookup\b", text), "user's text is never a template, and rendering asks no cluster"
    assert not re.search(r"\btoYaml\b", text), "toYaml gives nothing where it fails; mustToYaml says so"
    assert len(text.splitlines()) <= 150
    if path.suffix == ".yaml":
        assert len(re.findall(r"^kind: ", text, re.MULTILINE)) == 1


def test_the_image_ends_without_root_and_without_secrets() -> None:
    instructions = [line for line in DOCKERFILE.splitlines() if re.match(r"[A-Z]+ ", line)]
    users = [line.split()[1] for line in instructions if line.startswith("USER ")]
    assert users and users[-1].split(":")[0] not in ("0", "root")
    assert instructions.index(f"USER {users[-1]}") == len(instructions) - 2  # only CMD follows
    assert not [line for line in instructions if line.startswith("ADD ")]
    assert not re.search(r"TOKEN|PASSWORD|SECRET", DOCKERFILE)


def test_the_image_pins_what_it_installs_and_copies_what_exists() -> None:
    for line in DOCKERFILE.splitlines():
        if "pip install" in line:
            assert "--constraint constraints.txt" in line
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line
        if line.startswith("FROM "):
            assert re.match(r"FROM \$\{(BUILD|RUN)_BASE\}", line), "bases are arguments, so that a digest can be given"
    assert not re.search(r"^ARG \w+=\S+:latest", DOCKERFILE, re.MULTILINE)


def test_the_image_copies_all_that_the_build_needs() -> None:
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()}
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    packages = set(re.findall(r'"(\w+)\*"', setup))
    named = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert {"pyproject.toml", "setup.py", "constraints.txt"} | named | packages <= copied
    assert {"launcher", "helm/tuneyard", "helm/profiles", "slurm/profiles", "helm/rbac.yaml"} <= copied
    allowed = {line[1:] for line in (ROOT / "helm/image/Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    assert copied == allowed
