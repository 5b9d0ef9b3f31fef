"""The batch script as text: what it asks for, what it refuses, and that no value gets out of its quotes."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import ClusterError
from cluster.slurm.submit.batch_script import SbatchJob, SbatchSettings, lead_seconds, render
from cluster.slurm.submit.prepare_script import render_prepare

JOB = SbatchJob(
    run_dir=Path("/runs/support-1a2b"),
    nodes=8,
    grace_seconds=60,
    submitted=1795000000.5,
    python="/venv/bin/python",
    code=Path("/code"),
    cpus_per_node=96,
    gpus_per_node=8,
    walltime_seconds=14400,
)
PYXIS = SbatchSettings(container="pyxis", image="reg#image:tag", mounts=["/data", "/models:/m"])
APPTAINER = SbatchSettings(container="apptainer", image="/images/a b.sif", mounts=["/data"])
SITES = {
    "bare": SbatchSettings(),
    "no requeue": SbatchSettings(requeue=False),
    "pyxis": PYXIS,
    "apptainer": APPTAINER,
    "apptainer, no requeue": replace(APPTAINER, requeue=False),
    "everything": SbatchSettings(
        partition="p",
        modules=["cuda/12.8"],
        setup=["ulimit -c 0"],
        venv="/shared/venv",
        environment={"NCCL_DEBUG": "WARN"},
        forward=["HF_TOKEN"],
        directives={"switches": "1", "contiguous": True, "spread-job": False},
    ),
}
NASTY = [
    "two words",
    "o'neil",
    'say "hi"',
    "a,b=c",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "naïve ✓",
    "@setup@ @limit@",
    "%j",
    "-n --x",
    "*?[a]{b}",
    "'",
    '"',
    "~root !1 &&|<>",
    "x" * 5000,
]


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


def shellcheck(text: str, folder: Path, severity: str = "style") -> None:
    path = folder / "slurm.sh"
    path.write_text(text)
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):  # SC1091: a venv that is not here
        line = ["shellcheck", f"--severity={severity}", "--exclude=SC1091", path]
        assert subprocess.run(line, capture_output=True, text=True, check=False).stdout == ""


def test_what_the_scheduler_is_asked_for() -> None:
    site = SbatchSettings(
        partition="h100", account="me", qos="high", constraint="ib", memory="0", exclusive=True, gpu_type="h100"
    )
    assert directives(render(replace(JOB, exclude=["n3", "n7"]), site)) == [
        "job-name=support-1a2b",
        "output=/runs/support-1a2b/logs/slurm-%j.log",
        "open-mode=append",
        "chdir=/runs/support-1a2b",
        "nodes=8",
        "ntasks-per-node=1",
        "cpus-per-task=96",
        "gpus-per-node=h100:8",
        "time=0-04:00:00",
        "signal=B:USR1@75",
        "requeue",
        "partition=h100",
        "account=me",
        "qos=high",
        "constraint=ib",
        "mem=0",
        "exclusive",
        "exclude=n3,n7",
        "export=NONE",
    ]


@pytest.mark.parametrize(
    ("site", "line"),
    [
        (SbatchSettings(gpu_style="gres", gpu_type="a100"), "gres=gpu:a100:8"),
        (SbatchSettings(gpu_style="gpus-per-task"), "gpus-per-task=8"),
        (SbatchSettings(gpu_style="none"), None),
    ],
)
def test_gpus_are_asked_for_in_the_sites_way(site: SbatchSettings, line: str | None) -> None:
    asked = [found for found in directives(render(JOB, site)) if "gpu" in found or "gres" in found]
    assert asked == ([line] if line else [])


@pytest.mark.parametrize("name", SITES)
def test_every_kind_of_script_is_clean(name: str, tmp_path: Path) -> None:
    shellcheck(render(JOB, SITES[name]), tmp_path)


def test_how_our_programs_are_run_in_containers() -> None:
    pyxis = render(JOB, PYXIS)
    mounts = "/runs/support-1a2b:/runs/support-1a2b,/code:/code,/data:/data,/models:/m"
    assert f"container=(--container-image='reg#image:tag' --container-mounts='{mounts}')" in pyxis
    assert "srun --export=ALL --overlap --nodes=1 --ntasks=1 ${container" in pyxis
    apptainer = render(JOB, APPTAINER)
    binds = "--bind '/runs/support-1a2b' --bind '/code' --bind '/data'"
    assert f"container=(apptainer exec --nv {binds} '/images/a b.sif')" in apptainer


def test_a_site_without_requeue_submits_the_next_life_first() -> None:
    text = render(JOB, SbatchSettings(requeue=False))
    assert "no-requeue" in directives(text)
    assert "scontrol requeue" not in text
    assert text.index("afterany:") < text.index("cluster.slurm.job.srun_entry") < text.index('scancel "$next"')


def test_names_are_forwarded_and_never_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    text = render(JOB, SbatchSettings(forward=["HF_TOKEN", "WANDB_API_KEY"]))
    assert "export=HF_TOKEN,WANDB_API_KEY" in directives(text)
    assert "canary" not in text
    with pytest.raises(ClusterError, match="no name of an environment variable"):
        render(JOB, SbatchSettings(forward=["HF_TOKEN=hf_canary"]))


@pytest.mark.parametrize("value", NASTY)
def test_a_value_stays_a_value(value: str, tmp_path: Path) -> None:
    job = replace(JOB, run_dir=tmp_path / value.replace(",", "+")[:200])  # no comma: it is mounted
    text = render(job, SbatchSettings(comment=value, environment={"NASTY": value}, image=value, container="apptainer"))
    shellcheck(text, tmp_path, "warning")
    head, _, _ = text.partition("# The scheduler may be away")
    exports = next(line for line in text.splitlines() if line.startswith("export NASTY="))
    script = f'{head}\n{exports}\nprintf "%s\\0" "$run_dir" "$NASTY" "${{container[@]: -1}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout.decode().split("\0")[:-1] == [str(job.run_dir), value, value]
    assert not (tmp_path / "pwned").exists()
    assert len(directives(text)) == len(directives(render(JOB, SbatchSettings(comment="x"))))


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x1b[31m", "a\0b", "\u2028", "tab\there"])
def test_what_no_quotes_can_carry_is_refused(value: str) -> None:
    for site in (
        SbatchSettings(comment=value),
        SbatchSettings(environment={"A": value}),
        SbatchSettings(modules=[value]),
        SbatchSettings(partition=value),
    ):
        with pytest.raises(ClusterError, match="line break or a control character"):
            render(JOB, site)


def test_paths_that_slurm_or_a_container_cannot_carry_are_refused() -> None:
    with pytest.raises(ClusterError, match="backslash"):
        render(replace(JOB, run_dir=Path("/runs/a\\b")), SbatchSettings())
    with pytest.raises(ClusterError, match="comma"):
        render(JOB, replace(PYXIS, mounts=["/a,b"]))


def test_a_percent_sign_in_the_path_is_no_pattern() -> None:
    text = render(replace(JOB, run_dir=Path("/runs/100%j")), SbatchSettings())
    assert "output=/runs/100%%j/logs/slurm-%j.log" in directives(text)


def test_the_warning_leaves_time_to_save_and_the_walltime_time_to_train() -> None:
    assert lead_seconds(replace(JOB, grace_seconds=600)) == 615
    with pytest.raises(ClusterError, match="too late: the run has 60 s to save"):
        lead_seconds(replace(JOB, lead_seconds=70))
    with pytest.raises(ClusterError, match="no time to train: SLURM warns 75 s before its end, and up to 60 s earlier"):
        lead_seconds(replace(JOB, walltime_seconds=135))
    assert lead_seconds(replace(JOB, walltime_seconds=136)) == 75
    assert "time=" not in "".join(directives(render(replace(JOB, walltime_seconds=None), SbatchSettings())))


def test_an_installed_tuneyard_is_not_put_on_another_pythons_path() -> None:
    installed = replace(JOB, code=Path("/venv/lib/python3.12/site-packages"))
    assert "code=/venv/lib" in render(installed, SbatchSettings())
    assert "code=''" in render(installed, SbatchSettings(python="/other/bin/python"))


def test_a_plan_of_another_version_is_refused_by_name() -> None:
    assert SbatchSettings.from_plan({"partition": "p"}).partition == "p"
    with pytest.raises(ClusterError, match=r"launch\.slurm has unknown colour"):
        SbatchSettings.from_plan({"colour": "red"})


PREPARE = {"where": "job", "partition": "cpu", "account": "a", "cpus": 16, "memory": "64G", "walltime_seconds": 7200}


@pytest.mark.parametrize("site", SITES, ids=str)
def test_the_job_that_tokenises_asks_for_cores_alone(site: str, tmp_path: Path) -> None:
    given = replace(SITES[site], prepare=PREPARE, gpu_type="h100", constraint="nvlink", directives={"gpu-bind": "none"})
    script = render_prepare(replace(JOB, gpus_per_node=0), given)
    found = directives(script)
    for line in ("nodes=1", "ntasks=1", "cpus-per-task=16", "mem=64G", "time=0-02:00:00", "partition=cpu", "account=a"):
        assert line in found
    assert not [line for line in found if "gpu" in line or "nvlink" in line or line.startswith("signal")]
    assert "--nv" not in script and "@" not in script.replace("image:tag", "").replace("container[@]", "")
    shellcheck(script, tmp_path)


@pytest.mark.parametrize("nasty", NASTY)
def test_no_value_gets_out_of_its_quotes_there_either(nasty: str, tmp_path: Path) -> None:
    site = SbatchSettings(environment={"VALUE": nasty}, prepare={**PREPARE, "partition": nasty})
    script = render_prepare(replace(JOB, run_dir=tmp_path / "run"), site)
    setting = next(line for line in script.splitlines() if line.startswith("export VALUE="))
    told = subprocess.run(
        ["bash", "-c", f'{setting}; printf %s "$VALUE"'], cwd=tmp_path, capture_output=True, check=True
    )
    assert told.stdout.decode() == nasty
    assert not (tmp_path / "pwned").exists()


def test_nodes_are_given_back_where_the_first_one_goes_on_alone(tmp_path: Path) -> None:
    alone = render(replace(JOB, goes_on_alone=True), SbatchSettings())
    shellcheck(alone, tmp_path)
    assert "NumNodes=1" in alone and "--wait=0 " in alone
    for job in (JOB, replace(JOB, goes_on_alone=True, nodes=1)):
        script = render(job, SbatchSettings())
        assert "NumNodes" not in script and "--wait=120 " in script
