"""One honest bar for each phase of something long: what is done, of how much, how fast, and what is left.

On a terminal a bar; in a file or a pipe a line when a phase begins and now and then after that, without control codes.
Where nothing is known of an end, neither a share nor a time left is shown: only how long it has taken.
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
"""The same of a phase in which nothing can be counted: a run may wait for hours."""
RATE_AFTER_SECONDS = 1.0
"""A rate needs that long: the first parts of a phase come in bursts."""


@dataclass
class _Phase:
    """One phase: when it began, what was counted first and when, when a line was told of it, and its bar."""

    name: str
    began: float
    first: tuple[float, float] | None = None
    told: float = 0.0
    task: TaskID | None = None

    def rate(self, done: float | None, now: float) -> float | None:
        """Since something was counted first: what came before, such as loading, says nothing of it."""
        if done is None or self.first is None:
            return None
        began, before = self.first
        return (done - before) / (now - began) if done > before and now - began >= RATE_AFTER_SECONDS else None


class Meter:
    """Shows phases one after the other; one that goes on after an interlude has its bar again. A context manager.

    Args:
        console: Where to; what is no terminal gets lines.
        line_seconds: How often a line, where it is none.
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
            with suppress(OSError):  # a terminal that is gone must not hide why we leave
                self._finish_bar()
                self._bar.stop()

    @property
    def current(self) -> str:
        """The phase that was shown last."""
        return self._phase.name if self._phase else ""

    def begin_anew(self) -> None:
        """What comes is another life of the same: each phase begins again."""
        self._finish_bar()
        self._phases, self._phase = {}, None

    def say(self, text: str) -> None:
        """A line of its own, above the bar."""
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
        """Where a phase is.

        Args:
            phase: What goes on, in a word; another one than before begins a new bar.
            done: How much is done.
            total: How much there is in all; unknown when None.
            unit: What is counted.
            facts: What is told in place of the rate, such as loss and tokens per second.
            note: What else is told.
            left_seconds: What is left by the present speed; where the rate since the phase began, which has saves and
                evaluations in it, says more, that is told.
            begun_seconds: How long the phase had lasted when it was seen first.
        """
        now = time.monotonic()
        current = self._enter(phase, now, begun_seconds, counted=done is not None)
        if done is not None and (current.first is None or done < current.first[1]):
            current.first = (now, done)
        text = "  ".join(filter(None, (self._words(current, now, done, total, unit, facts, left_seconds), note)))
        if self._bar is not None:
            self._show_bar(current, text, done, total)
        elif not current.told or now - current.told >= (self._waiting_seconds if done is None else self._line_seconds):
            current.told = now
            self.say(f"{phase:<11} {text}".rstrip())

    def _enter(self, name: str, now: float, begun_seconds: float, *, counted: bool) -> _Phase:
        """The phase of that name. Where it has a bar already, what came between was an interlude, and its bar goes."""
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
    def _words(
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
        is_open = total is not None and done is not None and done < total  # what comes after the last is not known
        by_rate = (total - done) / rate if rate and total and done is not None else None
        known = [seconds for seconds in (left, by_rate) if seconds is not None and is_open]
        return "  ".join([*parts, f"{rounded_duration(max(known))} left"] if known else parts)

    def _show_bar(self, phase: _Phase, text: str, done: float | None, total: float | None) -> None:
        assert self._bar is not None
        if phase.task is None:
            phase.task = self._bar.add_task(phase.name, total=total, text=text)
        self._bar.update(phase.task, completed=done or 0, total=total, text=text)

    def _finish_bar(self) -> None:
        """Leaves a phase's last words where they are; a bar without an end stops pulsing."""
        if self._bar is not None and self._phase is not None and self._phase.task is not None:
            number = self._phase.task
            task = next(one for one in self._bar.tasks if one.id == number)
            self._bar.update(number, total=task.total or max(task.completed, 1), refresh=True)
            self._bar.stop_task(number)
