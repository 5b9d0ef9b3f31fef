"""The manual's own lines train the quickstart in two real pods: by Helm alone, and by `tuneyard submit`."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubernetes_runs import ROOT

from tests.cluster.kubernetes.testbed import Namespace, Testbed
from tests.support.documents import read_attempts

STEPS, ROWS = 30, 600
TUNEYARD = [sys.executable, "-c", "from launcher.cli import main; main()"]
SHORTER = {
    "kubernetes.yaml": {"max_steps: 1700": f"max_steps: {STEPS}", "every_steps: 200": "every_steps: 20"},
    "kubernetes-values.yaml": {"--once]": f"--once, --rows, '{ROWS}']"},
}
"""The only things that are not as the manual has them, beside image and namespace."""


def lines_of_the_manual() -> list[str]:
    """The commands in the fenced blocks of its section on the quickstart."""
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    section = text.partition("## The quickstart in two pods\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\w*\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


class User:
    """Somebody in a checkout who types what the manual says."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.namespace, self.folder = namespace, folder
        shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("work", "__pycache__"))
        (folder / "helm").symlink_to(ROOT / "helm")
        for name, changes in SHORTER.items():
            self.edit(name, changes)
        here = {
            "registry.example.com/me/tuneyard:0.2.0": namespace.image,
            "namespace: training": f"namespace: {namespace.name}",
        }
        self.edit("kubernetes-site.yaml", here)

    def edit(self, name: str, changes: dict[str, str]) -> None:
        file = self.folder / "examples" / "quickstart" / name
        text = file.read_text(encoding="utf-8")
        for old, new in changes.items():
            assert old in text, f"{name} has no {old}"
            text = text.replace(old, new)
        file.write_text(text, encoding="utf-8")

    def types(self, line: str) -> str:
        """Runs one line; gives what it printed."""
        mine = {"IMAGE": self.namespace.image, "training": self.namespace.name}
        words = [
            re.sub(r"\bIMAGE\b|^training$", lambda found: mine[found[0]], word)
            for word in shlex.split(line, comments=True)
        ]
        command = [*TUNEYARD, *words[1:]] if words[0] == "tuneyard" else words
        environment = self.namespace.cluster.environment | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


def check(run_dir: Path) -> None:
    """Trained to the end in one attempt on two nodes, exported and evaluated."""
    (record,) = read_attempts(run_dir)
    assert (record["outcome"], record["last_step"]) == ("finished", STEPS)
    assert len(set(record["nodes"])) == 2
    assert list((run_dir / "model").glob("*.safetensors"))
    assert json.loads((run_dir / "evaluation.json").read_text())["prompts"] == 200


@pytest.mark.testbed
@pytest.mark.timeout(1200)
def test_the_manuals_lines_train_the_quickstart(namespace: Namespace, tmp_path: Path) -> None:
    assert isinstance(namespace.cluster, Testbed)
    shared, user = namespace.cluster.runs(namespace.name), User(namespace, tmp_path)
    said: dict[str, Any] = {line.split()[0] + " " + line.split()[1]: user.types(line) for line in lines_of_the_manual()}
    assert list(said) == ["helm install", "helm test", "kubectl wait", "helm uninstall", "tuneyard submit"]
    assert "ok    torch: torch" in said["helm test"]
    by_helm, *others = sorted(path for path in shared.glob("quickstart*") if (path / "plan.json").exists())
    check(by_helm)
    (by_submit,) = others
    check(by_submit)
    assert "finished" in said["tuneyard submit"]
