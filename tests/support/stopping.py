"""Stopping a run of the tiny model: before its n-th step, by a signal or by what nothing of ours handles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tiny_run import patch_step, run_once

from sora_ref import training_step

Keys = dict[str, Any]


class Killed(BaseException):
    """What SIGKILL is to a process: nothing of ours handles it."""


@contextmanager
def at_call(n: int, act: Callable[[], None]) -> Iterator[list[int]]:
    """Act before the n-th training step, counted from 1; yields the calls made."""
    calls: list[int] = []
    real = training_step

    def step(*args: Any, **options: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == n:
            act()
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch_step(patch, step)
        yield calls


def stop(n: int, run: Path, keys: Keys, act: Callable[[], None], error: type[BaseException], **changes: Any) -> None:
    with at_call(n, act), pytest.raises(error):
        run_once(run, keys, **changes)


def scraps(run: Path) -> list[str]:
    """Hidden files but the lock, which stays."""
    return [path.name for path in run.rglob(".*") if path.name != ".lock"]


def kill() -> None:
    raise Killed


def stopped(run: Path, keys: Keys, after: int = 4) -> Path:
    """A run that was killed in the step after this one."""
    stop(after + 1, run, keys, kill, Killed)
    return run
