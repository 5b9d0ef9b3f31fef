"""Parts of a finished run that failed after training, and the commands that repeat only them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rundir.after_training import Part, read_part_ends
from rundir.outcome import Outcome

TITLES = {Part.HELD_OUT: "held-out loss", Part.EXPORT: "export", Part.EVALUATE: "prompts"}
AGAIN = {
    Part.HELD_OUT: "evaluate {run} --held-out",
    Part.EXPORT: "export {run}",
    Part.EVALUATE: "evaluate {run}",
}


@dataclass(frozen=True, kw_only=True)
class FailedPart:
    """A part after training (held-out loss, export or prompts) that failed."""

    name: Part
    message: str
    remedy: str

    @property
    def title(self) -> str:
        """The part's name in messages."""
        return TITLES[self.name]

    def text(self) -> str:
        """Return the error and its remedy."""
        return f"{self.title} failed: {self.message}" + (f"\n  what to do: {self.remedy}" if self.remedy else "")

    def command(self, run: str) -> str:
        """Return the command that repeats only this part of `run`."""
        return f"tuneyard {AGAIN[self.name].format(run=run)}"

    def as_json(self) -> dict[str, Any]:
        """Return the part as it stands in the JSON output."""
        return {"part": self.name, "message": self.message, "remedy": self.remedy}


def failed_parts(run_dir: Path, outcome: Outcome | None) -> list[FailedPart]:
    """Return the failed parts of a run that were not repeated since; empty unless the outcome is `finished`."""
    if outcome is not Outcome.FINISHED:
        return []
    failed = {part: end for part, end in read_part_ends(run_dir).items() if not end.ok}
    return [
        FailedPart(name=part, message=end.message or "it said nothing", remedy=end.remedy)
        for part, end in failed.items()
    ]
