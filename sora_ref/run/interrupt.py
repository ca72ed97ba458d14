"""Stopping politely: a run writes a checkpoint first, any other work is taken back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Ctrl-C, what a batch system sends, and what a terminal sends when it is closed (where there is such a signal).
SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(Exception):  # noqa: N818 (no error: the run can go on)
    """The run was asked to stop by the signal `number` and has written a checkpoint."""

    def __init__(self, sentence: str, number: int = signal.SIGINT) -> None:
        super().__init__(sentence)
        self.number = number


class Ended(KeyboardInterrupt):
    """The process was told to end by the signal `number`; raised where it works, as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def end(number: int, frame: Any) -> None:
    """A handler of signals that raises `Ended`, so that files that are half-written are taken away."""
    raise Ended(number)


class Stop(threading.Event):
    """Set once a run is asked to stop, by the signal `number`."""

    number: int = signal.SIGINT


@contextmanager
def signals_held() -> Iterator[Callable[[], None]]:
    """Keep what `SIGNALS` do until the function that it yields is called, or the end.

    For work of libraries that loses an exception raised within it.  The second signal acts as usual.  Outside the main
    thread nothing is held.
    """
    with stop_requested() as held:

        def let_go() -> None:
            if held.is_set():
                held.clear()
                signal.raise_signal(held.number)  # its own handler is back

        yield let_go
    let_go()


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """A `Stop` set by the first of `SIGNALS`, the second acting as usual; outside the main thread, never set.

    A hang-up that is ignored, as under nohup, stays ignored.
    """
    event = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {name: signal.getsignal(name) for name in SIGNALS}
    hang_up = getattr(signal, "SIGHUP", None)  # not on Windows
    if hang_up is not None and before[hang_up] is signal.SIG_IGN:
        del before[hang_up]

    def request(number: int, frame: Any) -> None:
        event.number = number
        event.set()
        signal.signal(number, before[signal.Signals(number)])

    for name in before:
        signal.signal(name, request)
    try:
        yield event
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
