"""Every setting of a site profile is declared once; the file's model and the script's arguments come from there."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from pydantic import ValidationError

from cluster.kubernetes.submit import profile as kubernetes
from cluster.slurm import profile as slurm
from cluster.slurm.submit.batch_script import SbatchSettings
from cluster.submitting.site_profiles import SiteProfile, section_in
from launcher.site.file_model import file_model, sections
from launcher.yamlfile.document import read_document

ROOT = Path(__file__).parents[4]
KINDS: list[type[Any]] = [slurm.Profile, kubernetes.Profile]
LEAST: dict[type[Any], dict[str, Any]] = {
    slurm.Profile: {},
    kubernetes.Profile: {"image": "registry.example.com/t:1", "runs": {"claim": "runs"}},
}
FILES = [(kubernetes.Profile, path) for path in sorted((ROOT / "helm/profiles").glob("*.yaml"))]
FILES += [(slurm.Profile, path) for path in sorted((ROOT / "slurm/profiles").glob("*.yaml"))]


def declared(kind: type[Any], key: str = "") -> Iterator[tuple[str, type[Any]]]:
    """A profile's dataclass and those of its sections, by the key that each stands under."""
    yield key, kind
    for name, hint in get_type_hints(kind).items():
        if section := section_in(hint):
            yield from declared(section, name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_what_the_profile_declares(kind: type[SiteProfile]) -> None:
    models = dict(sections(kind))
    for key, section in declared(kind):
        settings = {one.name: one for one in fields(section) if one.metadata}
        assert list(models[key].model_fields) == list(settings), key
        for name, field in models[key].model_fields.items():
            assert field.description == settings[name].metadata["description"], (key, name)
            assert field.is_required() == settings[name].metadata["required"], (key, name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_declared_with_what_it_says(kind: type[Any]) -> None:
    for key, section in declared(kind):
        for one in fields(section):
            if (key, one.name) != ("", "name"):
                assert one.metadata["description"].strip(), (key, one.name)
                assert one.default is not MISSING or one.default_factory is not MISSING, (key, one.name)


def test_the_batch_script_is_told_in_the_profiles_own_words() -> None:
    theirs, ours = ({one.name for one in fields(kind)} for kind in (slurm.Profile, SbatchSettings))
    shared = {one.name for one in fields(slurm.JobSettings)}
    assert theirs & ours == shared | {"setup", "prepare"}, (
        "those two are sections in a file, and their result in a plan"
    )
    assert set(slurm.Profile.from_dict("site", {}).site()) <= ours


@pytest.mark.parametrize(("kind", "path"), FILES, ids=[path.stem for _, path in FILES])
def test_shipped_files_are_right(kind: type[SiteProfile], path: Path) -> None:
    file_model(kind).model_validate_json(json.dumps(read_document(path).data), strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_another_type_is_refused_for_every_setting(kind: type[SiteProfile]) -> None:
    """An object without any known key is neither text, number, list, section nor mapping to such."""
    for name in file_model(kind).model_fields:
        with pytest.raises(ValidationError) as refused:
            file_model(kind).model_validate_json(
                json.dumps(LEAST[kind] | {name: {"x": {"y": {"z": [1]}}}}), strict=True
            )
        assert {error["loc"][0] for error in refused.value.errors()} == {name}


@pytest.mark.parametrize(
    ("kind", "values", "where"),
    [
        (slurm.Profile, {"partition": ""}, ("partition",)),
        (slurm.Profile, {"modules": [""]}, ("modules", 0)),
        (slurm.Profile, {"gpus_per_node": 0}, ("gpus_per_node",)),
        (slurm.Profile, {"exclusive": None}, ("exclusive",)),
        (slurm.Profile, {"max_walltime": "1 day"}, ("max_walltime",)),
        (slurm.Profile, {"preemption": {"signal": ""}}, ("preemption", "signal")),
        (slurm.Profile, {"setup": {"container": {"kind": "pyxis"}}}, ("setup", "container", "image")),
        (kubernetes.Profile, {"secrets": {"A": {"name": "s"}}}, ("secrets", "A", "key")),
        (kubernetes.Profile, {"volumes": [{"name": "v", "claim": "c"}]}, ("volumes", 0, "path")),
        (kubernetes.Profile, {"identity": {"uid": 0}}, ("identity", "uid")),
        (kubernetes.Profile, {"unreachable_seconds": -1}, ("unreachable_seconds",)),
        (kubernetes.Profile, {"gpu_types": {"h100-80": {"gpu": ""}}}, ("gpu_types", "h100-80", "gpu")),
    ],
)
def test_rules_hold_at_every_depth(
    kind: type[SiteProfile], values: dict[str, Any], where: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError) as refused:
        file_model(kind).model_validate_json(json.dumps(LEAST[kind] | values), strict=True)
    assert [error["loc"] for error in refused.value.errors()] == [where]


@pytest.mark.parametrize("name", ["partition", "setup", "max_walltime", "gpus_per_node"])
def test_what_is_left_empty_counts_as_left_out(name: str) -> None:
    file_model(slurm.Profile).model_validate_json(json.dumps({name: None}), strict=True)
    assert slurm.Profile.from_dict("site", {name: None}) == slurm.Profile(name="site")
