"""End cleanly on SIGINT (Ctrl-C), SIGTERM (`kill`) and SIGHUP (a closed terminal), with the exit code of a shell.

The first signal raises `Interrupted`, a KeyboardInterrupt: code that has to clean up catches it, cleans up and raises
it again. Further signals are ignored for some seconds, so that a second Ctrl-C does not interrupt the cleanup.
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
CLEANUP_SECONDS = 5.0
"""How long further signals are ignored after one."""
_SIGNAL_EXIT_BASE = 128


class Interrupted(KeyboardInterrupt):
    """A signal that asks this command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code_of(error: BaseException | None) -> int:
    """Return the exit code after an interruption: 130 for Ctrl-C, 143 for `kill`, 129 for a closed terminal."""
    return _SIGNAL_EXIT_BASE + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Make signals raise `Interrupted` inside the block. A signal that is ignored, as under nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = _Handler()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = [number for number, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def exit_process(code: int) -> NoReturn:
    """Exit with `code`. After an interruption, signals are ignored: one during shutdown would change the exit code."""
    for number in SIGNALS if code > _SIGNAL_EXIT_BASE else ():
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Hold `SIGNALS` back until the block has ended, in this process and in programs started in it.

    Used while a scheduler accepts a job: an interruption would leave a job whose ID nobody knows. Programs inherit
    the mask. It covers this thread only, and Python runs handlers of signals that reach other threads (a progress bar
    has one) here as well, so the handlers are replaced, too.
    """
    arrived: list[int] = []
    before_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if in_main else {}
    held = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in held:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before_mask)
        if arrived:
            signal.raise_signal(arrived[0])


class _Handler:
    """Signal handler that raises `Interrupted`, at most once in `CLEANUP_SECONDS`."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last >= CLEANUP_SECONDS:
            self._last = now
            raise Interrupted(number)
