"""Ctrl-C, `kill` and a terminal that closes: the same clean end for each, with the exit code that a shell expects.

The first signal raises `Interrupted`, a KeyboardInterrupt: whoever has something to put in order does so and lets it
go on. Further signals that arrive while that is done are ignored for some seconds, so an impatient second Ctrl-C
leaves nothing half removed.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ORDER_SECONDS = 5.0
"""How long after a signal the next ones are ignored."""
_BASE_CODE = 128


class Interrupted(KeyboardInterrupt):
    """A signal that asks this command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code_of(error: BaseException | None) -> int:
    """The exit code after an interruption: 130 for Ctrl-C, 143 for `kill`, 129 for a terminal that closed."""
    return _BASE_CODE + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Has signals raise `Interrupted` in here. What ignores a signal, as under nohup, goes on ignoring it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def leave(code: int) -> NoReturn:
    """Ends this process. Python takes a while to leave, in which another Ctrl-C would change the exit code."""
    for number in SIGNALS if code > _BASE_CODE else ():
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Lets Ctrl-C wait until the block has ended, for us and for programs started in it.

    A scheduler that is just taking a job must not lose the one who would know of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Handler:
    """Raises on the first signal, and on one that comes long after the last."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last >= ORDER_SECONDS:
            self._last = now
            raise Interrupted(number)
