"""Parts of a finished run that failed after training: what they are, and what tries only them again."""

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
    """A part that came after training, and went wrong."""

    name: Part
    message: str
    remedy: str

    @property
    def title(self) -> str:
        """The part for people."""
        return TITLES[self.name]

    def words(self) -> str:
        """What went wrong with it, and what to do."""
        return f"{self.title} failed: {self.message}" + (f"\n  what to do: {self.remedy}" if self.remedy else "")

    def command(self, run: str) -> str:
        """What tries only this part of `run` again."""
        return f"tuneyard {AGAIN[self.name].format(run=run)}"

    def as_json(self) -> dict[str, Any]:
        """The part for programs."""
        return {"part": self.name, "message": self.message, "remedy": self.remedy}


def failed_parts(run_dir: Path, outcome: Outcome | None) -> list[FailedPart]:
    """The parts of a run with this outcome that failed and were not done since; none where it is not trained."""
    if outcome is not Outcome.FINISHED:
        return []
    failed = {part: end for part, end in read_part_ends(run_dir).items() if not end.ok}
    return [
        FailedPart(name=part, message=end.message or "it said nothing", remedy=end.remedy)
        for part, end in failed.items()
    ]
