"""A sweep: one run for every combination of settings, with a file that says which run has which."""

from __future__ import annotations

import copy
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from launcher.errors import JobError
from launcher.yamlfile.document import Document
from rundir.files import read_json, read_json_or_empty, write_json
from rundir.metrics import Metrics, last_of_each_step, read_metrics
from rundir.paths import RunPaths
from rundir.progress import read_progress

FILE = "sweep.json"
MOST_RUNS = 1000
_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*")
_OPENING, _CLOSING = "[{", "]}"

Combination = dict[str, Any]
"""Dotted settings and the value that each has in one run."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep that was submitted. `runs` are in the order of `combinations`."""

    folder: Path
    backend: str
    runs: list[Path]
    combinations: list[Combination]

    def write(self) -> None:
        """Write the sweep's file into its folder."""
        runs = [
            {"run": str(run), "settings": settings} for run, settings in zip(self.runs, self.combinations, strict=True)
        ]
        write_json(self.folder / FILE, {"backend": self.backend, "runs": runs})


def read_sweep(folder: Path) -> Sweep:
    """Read the sweep in a folder; raises JobError if there is none or its file is damaged."""
    found = read_json(folder / FILE)
    if found is None:
        raise JobError(f"{folder} holds no sweep", "Name the folder that `tuneyard sweep` printed.")
    try:
        runs = [(Path(one["run"]), dict(one["settings"])) for one in found["runs"]]
        return Sweep(
            folder=folder,
            backend=str(found["backend"]),
            runs=[run for run, _ in runs],
            combinations=[settings for _, settings in runs],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise JobError(f"{folder / FILE}: is damaged: {error!r}", "Its runs are runs like any other.") from None


def find_sweep(text: str, root: Path) -> Path:
    """Return the folder of a sweep, named by a path, `last`, or the beginning of its name under `root`."""
    if (Path(text) / FILE).is_file():
        return Path(text).absolute()
    known = sorted(path.parent.absolute() for path in root.glob(f"*/{FILE}"))
    known.sort(key=lambda folder: folder.name.rsplit("-", 3)[1:])
    matching = known[-1:] if text == "last" else [folder for folder in known if folder.name.startswith(text)]
    if len(matching) == 1:
        return matching[0]
    names = ", ".join(folder.name for folder in (matching or known)[-5:]) or "none"
    raise JobError(f"{text!r} names {len(matching)} sweeps in {root}", f"There is: {names}.")


def list_sweeps(roots: Iterable[Path]) -> Iterator[tuple[Path, set[str]]]:
    """Yield every sweep in some folders, with the names of its runs."""
    for root in roots:
        for file in sorted(root.glob(f"*/{FILE}")):
            runs = read_json_or_empty(file).get("runs") or []
            yield file.parent, {Path(one["run"]).name for one in runs if isinstance(one, dict) and "run" in one}


def combinations_of(given: Sequence[str]) -> list[Combination]:
    """Return all combinations of `setting=value,value,...`, the last setting changing fastest.

    Raises:
        JobError: a setting cannot be understood, is given twice, or there are too many combinations.
    """
    settings = [_parsed(text) for text in given]
    names = [name for name, _ in settings]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise JobError(f"--set {twice} is given twice", f"Write all values in one: --set {twice}=A,B")
    found = [dict(zip(names, values, strict=True)) for values in itertools.product(*(values for _, values in settings))]
    if len(found) > MOST_RUNS:
        raise JobError(f"that makes {len(found)} runs", f"At most {MOST_RUNS}: give fewer values.")
    return found


def derived(document: Document, settings: Combination, name: str) -> Document:
    """Return the job file with other settings and another name. Lines in messages stay those of the file."""
    data = copy.deepcopy(document.data)
    for setting, value in {**settings, "name": name}.items():
        *sections, last = setting.split(".")
        inner = data
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise JobError(f"--set {setting}: {section} is no section of the job file")
        inner[last] = value
    return replace(document, data=data)


def job_text(text: str, settings: Combination, name: str) -> bytes:
    """Return the job file's text with these settings; comments and order stay."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes, yaml.width = True, 4096
    tree = yaml.load(text)
    for setting, value in {**settings, "name": name}.items():
        *sections, last = setting.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    out = io.BytesIO()
    yaml.dump(tree, out)
    return out.getvalue()


def combination_text(settings: Combination) -> str:
    """Return for example `training.learning_rate=1e-05 method.r=8`."""
    return " ".join(f"{name}={value}" for name, value in settings.items())


def short_names(settings: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique end of each setting's name: `learning_rate`, `method.r`, `other.r`."""
    found = {}
    for name in settings:
        parts = name.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in settings if other != name]
        found[name] = next((end for end in ends if not any(one.endswith(f".{end}") for one in others)), name)
    return found


def results(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the step, losses and score that each run has reached, read from its directory.

    `eval_loss` is that of the checkpoint that an export takes, the newest one: not the lowest of the run, which is
    `lowest_eval_loss`, at `lowest_eval_step`.
    """
    return [_result(run, settings) for run, settings in zip(sweep.runs, sweep.combinations, strict=True)]


def best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row with the highest exact match; without prompts, the one with the lowest held-out loss; or None."""
    scored = [row for row in rows if row["exact_match"] is not None]
    if scored:
        return max(scored, key=lambda row: row["exact_match"])
    held_out = [row for row in rows if row["eval_loss"] is not None]
    return min(held_out, key=lambda row: row["eval_loss"], default=None)


def _result(run: Path, settings: Combination) -> dict[str, Any]:
    paths, progress = RunPaths(run), read_progress(run)
    evaluation = read_json(paths.evaluation) or {}
    lines = last_of_each_step(line for line in read_metrics(run) if line.eval_loss is not None)
    saved = progress.last_checkpoint.step
    of_model = [line for line in lines if saved is not None and (line.step or 0) <= saved]
    lowest = min(lines, key=lambda line: line.eval_loss or 0.0, default=Metrics())
    return {
        "run": run.name,
        "settings": settings,
        "step": progress.step,
        "max_steps": progress.max_steps,
        "loss": progress.loss,
        "eval_loss": of_model[-1].eval_loss if of_model else None,
        "eval_step": of_model[-1].step if of_model else None,
        "lowest_eval_loss": lowest.eval_loss,
        "lowest_eval_step": lowest.step,
        "lowest_is_kept": lowest.step is not None and paths.checkpoint(lowest.step).is_dir(),
        "exact_match": evaluation.get("exact_match"),
    }


def _parsed(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals or not _SETTING.fullmatch(name):
        raise JobError(f"--set {text!r} is no setting", "Write it as in --set training.learning_rate=1e-5,2e-5")
    if name == "name":
        raise JobError("--set name: each run gets a name of its own")
    return name, [_value(name, value) for value in _split(values)]


def _split(text: str) -> Iterator[str]:
    """Split at commas outside brackets, so that a list is one value."""
    depth, begin = 0, 0
    for place, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and depth == 0:
            yield text[begin:place]
            begin = place + 1
    yield text[begin:]


def _value(name: str, text: str) -> Any:
    """Parse a value as in the job file, but read `1e-5` as a number, which YAML takes for text."""
    if not text.strip():
        raise JobError(f"--set {name}: a value is missing")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise JobError(f"--set {name}: {text!r} is no value") from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
