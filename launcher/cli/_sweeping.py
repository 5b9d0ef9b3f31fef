"""Plan the runs of a sweep: every combination is checked and planned before any run is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.cli._planning import planned_from
from launcher.errors import JobError
from launcher.jobfile.loader import LoadedJob
from launcher.planner.plan import Plan
from launcher.runs.sweep import Combination, combination_text, derived, job_text
from launcher.site.job import checked
from launcher.yamlfile.document import read_document
from rundir.errors import TuneyardError


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One planned run of a sweep, before it is submitted."""

    base_name: str
    name: str
    settings: Combination
    text: bytes
    plan: Plan
    loaded: LoadedJob


def plan_all(job_file: Path, combinations: list[Combination]) -> list[Planned]:
    """Plan every combination.

    Raises:
        JobError: some combinations are wrong; the message groups them by problem, with the lines of the job file.
    """
    document = read_document(job_file)
    base, text = str(document.data.get("name", "")), job_file.read_text(encoding="utf-8-sig")
    width, found = len(str(len(combinations) - 1)), []
    wrong: dict[str, list[str]] = {}
    for number, settings in enumerate(combinations):
        name = f"{base}-{number:0{width}d}"
        try:
            loaded = checked(derived(document, settings, name), job_file)
            plan = planned_from(loaded)
        except TuneyardError as error:
            problem = "\n".join(filter(None, (error.message, error.remedy)))
            wrong.setdefault(problem, []).append(combination_text(settings))
            continue
        written = job_text(text, settings, name)
        found.append(Planned(base_name=base, name=name, settings=settings, text=written, plan=plan, loaded=loaded))
    if wrong:
        raise JobError("\n".join(f"with {_first_three(names)}:\n{problem}" for problem, names in wrong.items()))
    return found


def _first_three(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return ", or ".join(names[:3]) + more
