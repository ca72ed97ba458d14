"""`sora-ref` in a process forked from this one: all is imported already, so that a command takes milliseconds."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, NoReturn

import matplotlib.pyplot
import safetensors.numpy
import scipy.stats
import sklearn.metrics
import tokenizers

import sora_ref.run.artefacts
import sora_ref.run.inspect
import sora_ref.run.pictures
import sora_ref.run.predict
import sora_ref.run.ship
import sora_ref.run.training
from _sora_ref_cli import main
from tests.soak.result import fault_of_sentence

# Imported once, here, for all children.
LOADED = (matplotlib.pyplot, safetensors.numpy, scipy.stats, sklearn.metrics, tokenizers, sora_ref.run)
PATIENCE = 120.0  # seconds after which a command hangs
ESCAPED = 99  # what a child exits with whose `main` let something through
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ, signal.SIGALRM, signal.SIGPIPE)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    code: its exit status, or minus the signal that killed it.  memory: bytes at its peak beside this process's own.
    """

    code: int
    out: str
    err: str
    seconds: float
    memory: int

    @property
    def outcome(self) -> str:
        """For the report."""
        return "done" if self.code == 0 else self.err.strip().removeprefix("sora-ref: ") or f"exit {self.code}"

    def fault(self, *expected: int) -> str:
        """What is wrong with it: another exit status than these, more or less than one line on stderr, no sentence."""
        said = self.err.strip()
        if self.code not in expected:
            return f"exit {self.code}, expected {' or '.join(map(str, expected))}: {said[-300:]}"
        if self.code in (0, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGXFSZ):
            return f"exit {self.code} with words on stderr: {said[-300:]}" if said and self.code == 0 else ""
        if self.code == 2 and said.startswith("Usage: "):
            return ""
        if "\n" in said or not said.startswith("sora-ref: "):
            return f"exit {self.code} without one line that begins with sora-ref: {said[-300:]}"
        return fault_of_sentence(said.removeprefix("sora-ref: "))


class Child:
    """A command that runs."""

    def __init__(self, pid: int, out: IO[bytes], err: IO[bytes]) -> None:
        self.pid, self._out, self._err = pid, out, err
        self._began, self._ended = time.monotonic(), False

    def wait(self, seconds: float = PATIENCE) -> Ended | None:
        """How it ended; None where it still runs after so many seconds."""
        limit = time.monotonic() + seconds
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() >= limit:
                return None
            time.sleep(0.002)
        self._ended = True
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Ended(
            os.waitstatus_to_exitcode(status),
            _all_of(self._out),
            _all_of(self._err),
            time.monotonic() - self._began,
            max(usage.ru_maxrss - own, 0) * 1024,
        )

    def end(self, number: int = signal.SIGKILL, seconds: float = PATIENCE) -> Ended:
        """Send a signal and wait; what does not end by it is killed."""
        os.kill(self.pid, number)
        return self.wait(seconds) or self.end()

    def finish(self) -> Ended:
        """Wait for its own end; a command that hangs is killed, which its exit status then says."""
        return self.wait() or self.end()

    def drop(self) -> None:
        """Kill it unless it has ended."""
        if not self._ended:
            self.end()


def start(arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> Child:
    """Run `sora-ref ARGUMENTS` in a child that calls `before` first."""
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (the child's, and read at its end)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(arguments, out.fileno(), err.fileno(), before)
    return Child(pid, out, err)


def run(arguments: Sequence[str], before: Callable[[], None] = lambda: None) -> Ended:
    """Run `sora-ref ARGUMENTS` to its end."""
    return start(arguments, before).finish()


def _become(arguments: Sequence[str], out: int, err: int, before: Callable[[], None]) -> NoReturn:
    code = ESCAPED
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # both as Python begins
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (the process's own)
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.argv = ["sora-ref", *arguments]
        before()
        main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:  # whatever `main` let through: the parent shall see it
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or ESCAPED
        os._exit(code)


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    text = file.read().decode("utf-8", "replace")
    file.close()
    return text
