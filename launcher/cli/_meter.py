"""Progress of long phases: how much is done, of how much, how fast, and the time left.

On a terminal each phase has a bar. In a file or a pipe there is a line when a phase begins and at intervals after that,
without control codes. If the end of a phase is unknown, only the time it has taken is shown.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from rundir.quantities import rounded_duration

LINE_SECONDS = 10.0
WAITING_LINE_SECONDS = 60.0
"""Interval between lines of a phase without a count: a run may wait for hours."""
RATE_AFTER_SECONDS = 1.0
"""A rate is shown only after this time, because the first parts of a phase come in bursts."""


@dataclass
class _Phase:
    """One phase; times are those of `time.monotonic`."""

    name: str
    began: float
    first: tuple[float, float] | None = None
    """Time and value of the first count."""
    printed: float = 0.0
    """When its last line was printed; 0 before the first."""
    task: TaskID | None = None
    """Its bar."""

    def rate(self, done: float | None, now: float) -> float | None:
        """Return counts per second since the first count; loading and the like before it do not matter."""
        if done is None or self.first is None:
            return None
        began, before = self.first
        return (done - before) / (now - began) if done > before and now - began >= RATE_AFTER_SECONDS else None


class Meter:
    """Shows phases one after the other; a phase that continues after an interlude continues its bar. A context manager.

    Args:
        console: The console to print to; if it is not a terminal, lines are printed.
        line_seconds: Interval between lines, in seconds.
    """

    def __init__(self, console: Console, line_seconds: float = LINE_SECONDS) -> None:
        self._console, self._line_seconds = console, line_seconds
        self._waiting_seconds = line_seconds * WAITING_LINE_SECONDS / LINE_SECONDS
        self._bar: Progress | None = None
        self._phases: dict[str, _Phase] = {}
        self._phase: _Phase | None = None

    def __enter__(self) -> Meter:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description:<11}"), BarColumn(bar_width=30), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            with suppress(OSError):  # a closed terminal must not hide the error that ends the block
                self._finish_bar()
                self._bar.stop()

    @property
    def current(self) -> str:
        """The phase that was shown last."""
        return self._phase.name if self._phase else ""

    def reset(self) -> None:
        """Forget all phases, before the next attempt of a run repeats them."""
        self._finish_bar()
        self._phases, self._phase = {}, None

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(
        self,
        phase: str,
        done: float | None = None,
        total: float | None = None,
        *,
        unit: str = "",
        facts: str = "",
        note: str = "",
        left_seconds: float | None = None,
        begun_seconds: float = 0.0,
    ) -> None:
        """Show the progress of a phase.

        Args:
            phase: Name of the phase; a new name begins a new bar.
            done: How much is done; None if nothing is counted.
            total: How much there is in all; None if unknown.
            unit: Unit of the counts.
            facts: Text in place of the rate, such as loss and tokens per second.
            note: Text after everything else.
            left_seconds: Time left at the current speed. The time left by the mean rate of the phase, which includes
                saves and evaluations, is shown instead if it is longer.
            begun_seconds: How long ago the phase began.
        """
        now = time.monotonic()
        current = self._enter(phase, now, begun_seconds, counted=done is not None)
        if done is not None and (current.first is None or done < current.first[1]):
            current.first = (now, done)
        text = "  ".join(filter(None, (self._text(current, now, done, total, unit, facts, left_seconds), note)))
        if self._bar is not None:
            self._show_bar(current, text, done, total)
            return
        interval_seconds = self._waiting_seconds if done is None else self._line_seconds
        if not current.printed or now - current.printed >= interval_seconds:
            current.printed = now
            self.print_line(f"{phase:<11} {text}".rstrip())

    def _enter(self, name: str, now: float, begun_seconds: float, *, counted: bool) -> _Phase:
        """Make a phase current. If it has a bar already, the phase in between was an interlude: drop it."""
        if self._phase is not None and self._phase.name == name:
            return self._phase
        if known := self._phases.get(name):
            self._drop()
            if begun_seconds or not counted:
                known.began = now - begun_seconds
        else:
            self._finish_bar()
            known = self._phases[name] = _Phase(name=name, began=now - begun_seconds)
        self._phase = known
        return known

    def _drop(self) -> None:
        if self._phase is not None:
            del self._phases[self._phase.name]
            if self._bar is not None and self._phase.task is not None:
                self._bar.remove_task(self._phase.task)

    @staticmethod
    def _text(
        phase: _Phase, now: float, done: float | None, total: float | None, unit: str, facts: str, left: float | None
    ) -> str:
        taken, rate = now - phase.began, phase.rate(done, now)
        parts = []
        if done is not None:
            parts.append(f"{done:,.0f}/{total:,.0f} {unit}".rstrip() if total else f"{done:,.0f} {unit}".rstrip())
        if facts:
            parts.append(facts)
        elif rate:
            parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s")
        parts.append(f"{rounded_duration(taken)} so far")
        is_open = total is not None and done is not None and done < total  # after the last count, time left is unknown
        by_rate = (total - done) / rate if rate and total and done is not None else None
        known = [seconds for seconds in (left, by_rate) if seconds is not None and is_open]
        return "  ".join([*parts, f"{rounded_duration(max(known))} left"] if known else parts)

    def _show_bar(self, phase: _Phase, text: str, done: float | None, total: float | None) -> None:
        assert self._bar is not None
        if phase.task is None:
            phase.task = self._bar.add_task(phase.name, total=total, text=text)
        self._bar.update(phase.task, completed=done or 0, total=total, text=text)

    def _finish_bar(self) -> None:
        """Leave the phase's bar on the screen as it is; a bar without a total stops pulsing."""
        if self._bar is not None and self._phase is not None and self._phase.task is not None:
            number = self._phase.task
            task = next(one for one in self._bar.tasks if one.id == number)
            self._bar.update(number, total=task.total or max(task.completed, 1), refresh=True)
            self._bar.stop_task(number)
