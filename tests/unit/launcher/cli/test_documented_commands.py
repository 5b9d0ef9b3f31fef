"""Every command in README and the manual: real verbs and options, and run here or by the test that is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from launcher.cli import VERBS, run, tuneyard

ROOT = Path(__file__).parents[4]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "helm" / "README.md", ROOT / "slurm" / "README.md"]  # fmt: skip  # noqa: E501
RUN_HERE = (
    "tuneyard init job.yaml",
    "tuneyard plan job.yaml",
    "tuneyard plan job.yaml --gpu 8xH100-80",
    "tuneyard plan job.yaml --compare zero3,fsdp2",
    "tuneyard submit job.yaml --dry-run",
    "tuneyard estimate --model llama-3.1-70b --method qlora --gpus 2xA100-80",
    "tuneyard advise job.yaml",
    "tuneyard calibration",
)
RUN_ELSEWHERE = {
    "tuneyard check job.yaml": "process/test_check.py",
    "tuneyard submit job.yaml": "process/test_end_to_end.py",
    "tuneyard stop last && tuneyard resume last": "process/cluster/test_interrupts.py",
    "tuneyard resume last --max-steps 3000": "cluster/kubernetes/test_kubernetes_backend.py",
    "tuneyard checkpoints last --verify": "unit/launcher/cli/test_checkpoints.py",
    "tuneyard drill job.yaml": "process/test_drill.py",
    "tuneyard doctor --draft > my-site.yaml": "cluster/slurm/test_doctor_at_a_site.py",
    "tuneyard sweep job.yaml --set training.learning_rate=1e-5,2e-5 --set method.r=8,16": "cluster/local/test_sweep_here.py",  # noqa: E501
    "tuneyard measure job.yaml --gpu 8xH100-80": "process/test_measure.py",
    "tuneyard submit examples/quickstart/kubernetes.yaml": "cluster/kubernetes/test_quickstart_on_kubernetes.py",
    "tuneyard fetch last": "cluster/kubernetes/test_kubernetes_backend.py",
    "tuneyard doctor --draft --kubernetes > site.yaml": "cluster/kubernetes/test_kubernetes_backend.py",
    "tuneyard doctor --profile ./site.yaml": "cluster/kubernetes/test_kubernetes_backend.py",
    "tuneyard doctor --profile testbed": "cluster/slurm/test_doctor_at_a_site.py",
}
"""The file under tests/ that runs it, or the same verb with other values, on what it needs."""


def fenced(page: Path) -> Iterator[str]:
    """Commands in code blocks, without their comments."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if re.match(r"(\$ )?tuneyard [a-z]", line):
                yield re.split(r"\s+# |\s{3,}", line.removeprefix("$ "))[0].strip()


def inline(page: Path) -> Iterator[str]:
    """Commands within sentences: often a verb and an option only."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    yield from (" ".join(found.split()) for found in re.findall(r"`(tuneyard [^`]+)`", text))


COMMANDS = sorted({command for page in PAGES for command in fenced(page)})
MENTIONS = sorted({command for page in PAGES for command in inline(page)})


def parse(command: str, *, whole: bool) -> None:
    """Has click read a command line as it would be typed; a mention may leave out what the verb needs."""
    for part in re.split(r"&&|\|\|?", re.sub(r"[\[\]]|>.*", "", command)):
        _, verb, *words = shlex.split(part)
        if verb.startswith("-"):
            continue
        assert verb in VERBS or verb == "place", command
        found = tuneyard.get_command(click.Context(tuneyard), verb)
        assert found is not None
        try:
            found.make_context(verb, words, resilient_parsing=False)
        except click.exceptions.Exit:
            continue
        except click.UsageError as error:
            unfinished = isinstance(error, click.MissingParameter) or "requires an argument" in error.message
            assert unfinished and not whole, f"{command}: {error.format_message()}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_in_a_code_block_is_whole_and_is_run(command: str) -> None:
    parse(command, whole=True)
    assert command in RUN_HERE or command in RUN_ELSEWHERE, "run it here, or name the test that runs it"


def test_verbs_and_options_in_sentences_are_real() -> None:
    assert len(MENTIONS) > 20
    for command in MENTIONS:
        parse(command, whole=False)


def test_the_tests_that_are_named_speak_of_the_verb() -> None:
    for command, test in RUN_ELSEWHERE.items():
        text = (ROOT / "tests" / test).read_text(encoding="utf-8")
        for verb in re.findall(r"tuneyard ([a-z]+)", command):
            assert re.search(rf"['\"`]{verb}['\"`]|tuneyard {verb}", text), f"{test} does not run `{verb}`"


@pytest.mark.parametrize("command", [command for command in RUN_HERE if " init " not in command])
def test_it_runs(command: str, write_job: Callable[..., Path], job_folder: Path, monkeypatch, capsys) -> None:
    write_job()
    monkeypatch.chdir(job_folder)
    assert run(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_the_first_command_writes_a_job(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(shlex.split(RUN_HERE[0])[1:]) == 0
    assert (tmp_path / "job.yaml").is_file()
