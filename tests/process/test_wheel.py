"""A wheel is whole: everything beside the code is found, wherever it was installed to."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import tiny

ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "launcher", "rundir", "trainer")
JOB = """\
name: tiny
model: {path: ./model}
data: {train: [{path: ./rows.jsonl}], max_length: 256}
training: {max_steps: 30, tokens_per_step: 2048}
resources: {gpu: none, cpu_ranks: 1, walltime: 10m}
cluster: {profile: testbed}
"""
COMMAND = "import sys, launcher.cli; sys.exit(launcher.cli.main())"
CHART = "from cluster.kubernetes.client.helm import chart_folder; print(chart_folder())"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was unpacked into, as `pip install --target` does."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in (*PACKAGES, "helm", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, *build, "--wheel-dir", wheels, source], check=True)
    (wheel,) = wheels.glob("tuneyard-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run_there(installed: Path, here: Path, code: str, *arguments: str) -> str:
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(here)}
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_packages_the_chart_and_the_profiles_is_there(installed: Path) -> None:
    wanted = {path.relative_to(ROOT): path.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*")}
    for name in ("helm/tuneyard", "helm/profiles", "helm/rbac.yaml", "slurm/profiles"):
        for path in [ROOT / name, *(ROOT / name).rglob("*")]:
            wanted[path.relative_to(ROOT)] = Path("cluster/_shipped") / path.relative_to(ROOT)
    missing = [
        str(name)
        for name, there in wanted.items()
        if (ROOT / name).is_file() and name.suffix != ".pyc" and not (installed / there).is_file()
    ]
    assert missing == []
    assert not (installed / "helm").exists() and not (installed / "slurm").exists(), "names that are not ours"


def test_the_chart_and_the_profiles_are_found_there(installed: Path, tmp_path: Path) -> None:
    chart = Path(run_there(installed, tmp_path, CHART).strip())
    assert chart.is_relative_to(installed) and (chart / "values.schema.json").is_file()
    profiles = json.loads(run_there(installed, tmp_path, COMMAND, "doctor", "--profiles", "--json"))
    assert {"testbed", "university", "gpu-cluster"} <= set(profiles)
    assert all(Path(path).is_relative_to(installed) for path in profiles.values())


def test_a_job_is_planned_for_a_shipped_profile_from_there(installed: Path, tmp_path: Path) -> None:
    tiny.make_model(tmp_path / "model")
    tiny.write_rows(tmp_path / "rows.jsonl", 40)
    (tmp_path / "job.yaml").write_text(JOB)
    script = run_there(installed, tmp_path, COMMAND, "submit", "job.yaml", "--dry-run")
    assert "#SBATCH --partition=low" in script
    assert str(ROOT) not in script.replace(sys.prefix, "")
