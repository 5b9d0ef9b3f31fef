"""Values that mean harm, or just mean something else to YAML, a shell, Helm or Kubernetes."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from chart_values import CHART, NAMESPACE, RELEASE, Helm, environment, expand, job_spec, one, trainer

TEXTS = {
    "template": '{{ .Values.image }} {{ fail "no" }} {{- end }} }} {{',
    "expansion": "$(HOME) $$(HOME) $(TUNEYARD_PORT) $$$ $HOME `id` $",
    "yaml": "a: &x [*x]\n---\n- !!python/object:os.system id\n...\n# no comment\n'\"\n\t|\n  >-\n%YAML 1.2",
    "line ends": "\r\n\na\rb\n\n\n",
    "blanks": "  \n   indented first\n \n trailing   \n",
    "controls": "".join(map(chr, range(1, 32))),
    "looks like null": r"\u0000 \\u0000 \x00",
    "unicode": "ü \u00a0 \u2028 \u2029 \ufeff \ufffd 😀 \u202e",
    "json": '{"a": "\\u0000\\n\\"", "b": [1e400]}',
    "numbers": "0x10",
    "words": "yes",
    "nothing": " ",
    "date": "2026-11-21",
    "injection": 'x"\n  evil: "y\n---\nkind: Secret\n',
    "flow": '}, {name: EVIL, value: x}], "',
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_arrives_byte_for_byte(helm: Helm, name: str) -> None:
    text = TEXTS[name]
    values = {
        "job": text, "plan": text, "networks": text, "environment": {"NOTE": text}, "nccl": {"NOTE": text},
        "podAnnotations": {"example.com/note": text}, "serviceAccount": {"annotations": {"example.com/note": text}},
        "init": [{"name": "fetch", "command": ["printf", text]}],
    }  # fmt: skip
    objects = helm.render(values)
    assert one(objects, "ConfigMap")["data"] == {"job.yaml": text, "plan.json": text}
    found = environment(trainer(objects))
    assert found["NOTE"] == found["NCCL_NOTE"] == text
    assert found.keys().isdisjoint({"EVIL"})
    template = job_spec(objects)["template"]
    assert template["metadata"]["annotations"]["k8s.v1.cni.cncf.io/networks"] == text
    assert template["metadata"]["annotations"]["example.com/note"] == text
    assert one(objects, "ServiceAccount")["metadata"]["annotations"] == {"example.com/note": text}
    assert template["spec"]["initContainers"][0]["command"] == ["printf", text]
    kinds = sorted(item["kind"] for item in objects)
    assert kinds == sorted(item["kind"] for item in helm.render({}))


REFUSED = [0, *range(0x7F, 0xA0), 0xFFFE, 0xFFFF]


@pytest.mark.parametrize("code", REFUSED, ids=hex)
def test_characters_that_the_api_server_does_not_take_are_refused(helm: Helm, code: int) -> None:
    said = helm.refusal({"job": f"a{chr(code)}b", "environment": {"A": "\\" + chr(code)}})
    for name in ("job", "environment"):
        assert f"- {name} has a character in it that Kubernetes does not take: U+0000, U+007F to U+009F, U+FFFE" in said
    assert said.count("\n- ") == 2


def test_the_job_file_of_the_quickstart_arrives_through_set_file(helm: Helm) -> None:
    path = CHART.parents[1] / "examples" / "quickstart" / "job.yaml"
    line = ["template", RELEASE, CHART, "--set", "image=x", "--set-file", f"job={path}"]
    objects = [item for item in yaml.safe_load_all(helm(*line).stdout) if item]
    assert one(objects, "ConfigMap")["data"]["job.yaml"] == path.read_text(encoding="utf-8")


def test_what_kubernetes_makes_of_dollars_is_known_here() -> None:
    assert expand("$(A) $$(A) $(B) $ $$ $x $(", {"A": "1"}) == "1 $(A) $(B) $ $ $x $("


NAMES = ["$(id)", "a b", "a\nb", "../../etc", "A", "-a", "a-", "{{ .Release.Name }}", "a,b", "é", "a" * 300, "a\x00"]


@pytest.mark.parametrize("hostile", NAMES)
def test_hostile_names_are_refused_wherever_a_name_is_wanted(helm: Helm, hostile: str) -> None:
    values = {
        "runs": {"claim": hostile},
        "kueue": {"queue": hostile},
        "priorityClass": hostile,
        "excludeNodes": [hostile],
        "secrets": {"A": {"name": hostile, "key": "k"}},
        "volumes": [{"name": hostile, "claim": "c", "path": "/c"}],
        "serviceAccount": {"name": hostile},
    }
    said = helm.refusal(values)
    for where in ("/runs/claim", "/kueue/queue", "/priorityClass", "/excludeNodes/0", "/secrets/A/name",
                  "/volumes/0/name", "/serviceAccount/name"):  # fmt: skip
        assert f"at '{where}'" in said


@pytest.mark.parametrize("hostile", ["", " ", "A B", "A=B", "A\nB", "Ä", "$A", "A.B", "A-B", "{{A}}"])
def test_hostile_names_of_variables_are_refused(helm: Helm, hostile: str) -> None:
    said = helm.refusal({"environment": {hostile: "x"}, "nccl": {hostile: "x"}, "secrets": {hostile: {"name": "a"}}})
    for section in ("environment", "nccl", "secrets"):
        assert f"at '/{section}': additional properties " in said


def test_secrets_are_references_in_every_object(helm: Helm) -> None:
    values = {"secrets": {"HF_TOKEN": {"name": "hub", "key": "token"}}, "tensorboard": {"enabled": True}}
    objects = helm.render(values)
    assert not [item for item in objects if item["kind"] == "Secret"]
    reference = {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert environment(trainer(objects))["HF_TOKEN"] == reference
    text = json.dumps(objects)
    holders = text.count('"HF_TOKEN"'), text.count(json.dumps({"name": "HF_TOKEN", "valueFrom": reference}))
    assert holders == (2, 2)  # trainer and place, and nobody else


def test_what_stands_in_the_callers_environment_goes_nowhere(helm: Helm, tmp_path: Path) -> None:
    canary = "canary-5f3a9c"
    line = [helm.binary, "template", RELEASE, CHART, "--namespace", NAMESPACE, *helm.values({})]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_TOKEN": canary, "RANK": canary}
    done = subprocess.run(line, env=environ, capture_output=True, text=True, check=True)
    assert canary not in done.stdout + done.stderr
