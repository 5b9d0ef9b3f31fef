"""One honest bar for each phase of something long: what is done, of how much, how fast, and what is left.

On a terminal a bar; in a file or a pipe a line when a phase begins and now and then after that, without control codes.
Where nothing is known of an end, neither a share nor a time left is shown: only how long it has taken.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

LINE_SECONDS = 10.0
WAITING_LINE_SECONDS = 60.0
"""The same of a phase in which nothing can be counted: a run may wait for hours."""
RATE_AFTER_SECONDS = 1.0
"""A rate needs that long: the first parts of a phase come in bursts."""


def duration_in_words(seconds: float) -> str:
    """`2.4 h`, `12.5 min` or `40 s`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


class Meter:
    """Shows phases one after the other. Use as a context manager.

    Args:
        console: Where to; what is no terminal gets lines.
        line_seconds: How often a line, where it is none.
    """

    def __init__(self, console: Console, line_seconds: float = LINE_SECONDS) -> None:
        self._console, self._line_seconds = console, line_seconds
        self._waiting_seconds = line_seconds * WAITING_LINE_SECONDS / LINE_SECONDS
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._began = self._told = 0.0
        self._first: tuple[float, float] | None = None

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
            self._finish_task()
            self._bar.stop()

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
            left_seconds: What is left, where the caller knows better than by the rate since the phase began.
            begun_seconds: How long the phase had lasted when it was seen first.
        """
        now = time.monotonic()
        if phase != self._phase:
            self._finish_task()
            self._phase, self._began, self._told, self._first = phase, now - begun_seconds, 0.0, None
        if self._first is None and done is not None:
            self._first = (now, done)
        text = "  ".join(filter(None, (self._words(now, done, total, unit, facts, left_seconds), note)))
        if self._bar is not None:
            self._show_bar(text, done, total)
        elif not self._told or now - self._told >= (self._waiting_seconds if done is None else self._line_seconds):
            self._told = now
            self.say(f"{phase:<11} {text}".rstrip())

    def _words(
        self, now: float, done: float | None, total: float | None, unit: str, facts: str, left: float | None
    ) -> str:
        taken = now - self._began
        parts = []
        if done is not None:
            parts.append(f"{done:,.0f}/{total:,.0f} {unit}".rstrip() if total else f"{done:,.0f} {unit}".rstrip())
        rate = self._rate(done, now)
        if rate and not facts:
            parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s")
        parts += [facts] if facts else []
        parts.append(f"{duration_in_words(taken)} so far")
        if left is None and rate and total and done is not None:
            left = max(0.0, total - done) / rate
        if left is not None:
            parts.append(f"{duration_in_words(left)} left")
        return "  ".join(parts)

    def _rate(self, done: float | None, now: float) -> float | None:
        """Since something was counted first: what came before, such as loading, says nothing of it."""
        if done is None or self._first is None:
            return None
        began, before = self._first
        return (done - before) / (now - began) if done > before and now - began >= RATE_AFTER_SECONDS else None

    def _show_bar(self, text: str, done: float | None, total: float | None) -> None:
        assert self._bar is not None
        if self._task is None:
            self._task = self._bar.add_task(self._phase, total=total, text=text)
        self._bar.update(self._task, completed=done or 0, total=total, text=text)

    def _finish_task(self) -> None:
        """Leaves a phase's last words where they are; a bar without an end stops pulsing."""
        if self._bar is not None and self._task is not None:
            task = next(one for one in self._bar.tasks if one.id == self._task)
            self._bar.update(self._task, total=task.total or max(task.completed, 1), refresh=True)
            self._bar.stop_task(self._task)
            self._task = None
