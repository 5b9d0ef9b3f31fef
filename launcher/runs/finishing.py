"""Parts of a finished run that failed after training: what they are, and what tries only them again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.rundir import FINISHING, read_json_loosely

TITLES = {"held_out": "held-out loss", "export": "export", "evaluate": "prompts"}
AGAIN = {"held_out": "evaluate {run} --held-out", "export": "export {run}", "evaluate": "evaluate {run}"}


@dataclass(frozen=True, kw_only=True)
class FailedPart:
    """A part that came after training, and went wrong."""

    name: str
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


def failed_parts(run_dir: Path, outcome: str | None) -> list[FailedPart]:
    """The parts of a run with this outcome that failed and were not done since; none where it is not trained."""
    if outcome != "finished":
        return []
    noted = read_json_loosely(run_dir / FINISHING)
    return [
        FailedPart(
            name=name, message=str(entry.get("message") or "it said nothing"), remedy=str(entry.get("remedy") or "")
        )
        for name in TITLES
        if isinstance(entry := noted.get(name), dict) and not entry.get("ok")
    ]
