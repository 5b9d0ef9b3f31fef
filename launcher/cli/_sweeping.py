"""Planning the runs of a sweep: every combination is checked and planned before any of them is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.cli._planning import planned_from
from launcher.errors import JobError
from launcher.jobfile.loader import LoadedJob
from launcher.planner.plan import Plan
from launcher.runs.sweep import Combination, derived, in_words, job_text
from launcher.site.job import checked
from launcher.yamlfile.document import read_document
from rundir.errors import TuneyardError


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One run of a sweep that is to be submitted."""

    base_name: str
    name: str
    settings: Combination
    text: bytes
    plan: Plan
    loaded: LoadedJob


def plan_all(job_file: Path, combinations: list[Combination]) -> list[Planned]:
    """A plan for every combination.

    Raises:
        JobError: combinations are wrong; the message names each, and the lines are those of the job file.
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
            said = "\n".join(filter(None, (error.message, error.remedy)))
            wrong.setdefault(said, []).append(in_words(settings))
            continue
        written = job_text(text, settings, name)
        found.append(Planned(base_name=base, name=name, settings=settings, text=written, plan=plan, loaded=loaded))
    if wrong:
        raise JobError("\n".join(f"with {_some(which)}:\n{said}" for said, which in wrong.items()))
    return found


def _some(which: list[str]) -> str:
    """The combinations of which the same is said."""
    more = f", and {len(which) - 3} more" if len(which) > 3 else ""
    return ", or ".join(which[:3]) + more
