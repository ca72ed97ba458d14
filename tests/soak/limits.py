"""One call under limits of time and memory, and what it came to, measured in a process that may die of it."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from sora_ref.errors import SoRAError
from tests.soak.result import BYTES, SECONDS, fault_of_sentence

WAITING = 30.0  # seconds that may pass by the clock, for what waits without working


class Seen(NamedTuple):
    """What a call came to; see `result.Result`."""

    outcome: str
    fault: str
    seconds: float
    memory: int


class TooLong(BaseException):
    """The time is up; no handler of ours catches it."""


class Limits:
    """The limits of this process, which is a child made for the purpose; its stderr goes into a file."""

    def __init__(self, seconds: float = SECONDS, memory: int = BYTES) -> None:
        self.seconds, self.memory = seconds, memory
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (the process's own, to its end)
        os.dup2(self._stderr.fileno(), 2)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        warnings.simplefilter("ignore")  # as the console script does
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, _stop)
        self._own = _Own()
        used = self._own.bytes_of("VmData")
        if used:
            resource.setrlimit(resource.RLIMIT_DATA, (used + memory + memory // 4, resource.RLIM_INFINITY))

    def call(self, function: Callable[[], Any]) -> Seen:
        """Call it: right is a return, or a SoRAError (or an OSError, which the console turns into one) in a sentence.

        Anything else is a fault: another exception, words on stderr, too much time or memory.
        """
        self._stderr.seek(0)
        self._stderr.truncate()
        before = self._own.reset_peak()
        began = time.process_time()
        outcome, fault = "accepted", ""
        try:
            signal.setitimer(signal.ITIMER_PROF, self.seconds)
            signal.setitimer(signal.ITIMER_REAL, WAITING)
            try:
                function()
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
        except (SoRAError, OSError) as error:
            outcome = str(error) if isinstance(error, SoRAError) else f"{type(error).__name__}: {error}"
            fault = fault_of_sentence(str(error))
        except TooLong as error:
            fault = f"takes more than {self.seconds:g} s of the processor, or {WAITING:g} s: {_where(error)}"
        except MemoryError as error:
            fault = f"takes more than {self.memory / 2**30:g} GB: {_where(error)}"
        except BaseException as error:  # all that a user would see as a traceback or a bug
            fault = f"{type(error).__name__}: {str(error)[:300]} {_where(error)}"
        seconds, memory = time.process_time() - began, max(self._own.bytes_of("VmHWM") - before, 0)
        sys.stderr.flush()
        self._stderr.seek(0)
        said = self._stderr.read().decode("utf-8", "replace")
        if not fault and said:
            fault = f"words on stderr: {said[:300]}"
        if not fault and memory > self.memory:
            fault = f"takes {memory / 2**20:.0f} MB"
        return Seen(outcome, fault, seconds, memory)


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong


def _where(error: BaseException) -> str:
    """The innermost place of our own code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if re.search(r"/(sora_ref|models|backends)/", frame.filename)] or frames
    return f"in {Path(ours[-1].filename).name}:{ours[-1].name}" if ours else ""


class _Own:
    """What the system (Linux) says of this process's memory; 0 where it says nothing."""

    def __init__(self) -> None:
        try:
            self._status = os.open("/proc/self/status", os.O_RDONLY)
            self._peak = os.open("/proc/self/clear_refs", os.O_WRONLY)
        except OSError:
            self._status = self._peak = -1

    def bytes_of(self, key: str) -> int:
        """The number beside a key of the status."""
        found = None
        if self._status >= 0:
            found = re.search(rf"^{key}:\s+(\d+) kB", os.pread(self._status, 8192, 0).decode(), re.M)
        return int(found[1]) * 1024 if found else 0

    def reset_peak(self) -> int:
        """Count the peak again from what is used now, and say how much that is."""
        if self._peak >= 0:
            os.pwrite(self._peak, b"5", 0)
        return self.bytes_of("VmRSS")
