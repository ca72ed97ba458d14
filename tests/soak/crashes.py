"""The power goes, in every place where a command touches the disk, and within the bytes that it writes."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny_run import tree

from tests.soak import console
from tests.soak.ground import KINDS, SHIPPED, Ground, finish_run
from tests.soak.result import Result

PART = "crashes"
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FOREIGN = "a file of somebody else's"


def cases(ground: Ground, seed: int) -> Iterator[Result]:
    """Every change of the disk once, and as many lengths at which a file is torn, in an order of the seed's."""
    points = []
    for command in (*KINDS, *SHIPPED):
        changes, largest = _measure(ground, command)
        rng = random.Random(f"{seed}/{PART}/{command}")
        points += [(command, "at", number) for number in range(1, changes + 1)]
        points += [(command, "torn", rng.randrange(1, largest)) for _ in range(changes)]
    random.Random(seed).shuffle(points)
    for command, how, number in points:
        yield from one(ground, f"{PART}:{command}:{how}:{number}")


def one(ground: Ground, name: str) -> Iterator[Result]:
    """The case of this name."""
    _, command, how, number = name.split(":")
    before = dying_at(ground.folder, int(number)) if how == "at" else torn_after(int(number))
    yield Result(PART, command, name, "whole again", crash(ground, command, before))


def crash(ground: Ground, command: str, before: Callable[[], None]) -> str:
    """Let a command die of `before`, then use its work again; what is wrong then, empty for nothing."""
    work = ground.fresh()
    out = work / "out"
    (work / "neighbour.txt").write_text(FOREIGN)
    ended = console.run(_arguments(ground, command, out), before)
    if ended.code not in (0, -signal.SIGKILL, -signal.SIGXFSZ):
        return f"did not die: exit {ended.code}, {ended.err.strip()[-300:]}"
    fault = finish_run(ground, command, out) if command in KINDS else _fault_of_folder(ground, command, out)
    left = sorted(path.name for path in work.iterdir() if path.name not in ("out", "neighbour.txt"))
    if not fault and left:
        fault = f"leaves {', '.join(left)} after the next command"
    if not fault and (work / "neighbour.txt").read_text() != FOREIGN:
        fault = "changed a file beside its target"
    if not fault:
        ground.drop(work)
    return fault


def _arguments(ground: Ground, command: str, out: Path) -> list[str]:
    return ground.train(command, out) if command in KINDS else ground.ship(SHIPPED[command], out)


def _fault_of_folder(ground: Ground, command: str, out: Path) -> str:
    """The target is whole or absent; where absent, the next command makes it."""
    whole = ground.shipped[command]
    if out.exists() and tree(out) != whole:
        return f"half a folder: {sorted(tree(out))}"
    there = out.exists()
    ended = console.run(_arguments(ground, command, out))
    return ended.fault(1 if there else 0) or ("" if tree(out) == whole else "other files the second time")


def _measure(ground: Ground, command: str) -> tuple[int, int]:
    """How often a command changes the disk, and the size of its largest file."""
    out = ground.fresh() / "out"
    changes, ended = changes_of(ground, _arguments(ground, command, out))
    if ended.code != 0:
        raise RuntimeError(f"nothing was disturbed, and yet: {command}: exit {ended.code}, {ended.err.strip()}")
    return changes, max(path.stat().st_size for path in out.rglob("*") if path.is_file())


def changes_of(
    ground: Ground, arguments: list[str], prepare: Callable[[], None] = lambda: None
) -> tuple[int, console.Ended]:
    """How often a command, in a child that calls `prepare` first, changes the disk, and how it ends."""
    read, write = os.pipe()
    os.set_blocking(read, False)

    def before() -> None:
        prepare()
        _watch(ground.folder, lambda: os.write(write, b"."))

    ended = console.run(arguments, before)
    changes = len(os.read(read, 1 << 16))
    os.close(read)
    os.close(write)
    return changes, ended


def dying_at(folder: Path, number: int) -> Callable[[], None]:
    """Makes a child die just before its so many-th change of the disk below a folder."""

    def before() -> None:
        seen = 0

        def count() -> None:
            nonlocal seen
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

        _watch(folder, count)

    return before


def torn_after(size: int) -> Callable[[], None]:
    """Makes a child die as it writes past this size of any file, of which so many bytes then stand."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return before


def _watch(folder: Path, act: Callable[[], Any]) -> None:
    """Act before every change of the disk below a folder: files opened to write, renamed, removed, flushed."""
    root = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and str(path).startswith(root):
                act()
        elif event in _CHANGES:
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else ""
            if path.startswith(root) or not os.path.isabs(path):  # what rmtree removes is named within its folder
                act()

    real = os.fsync

    def fsync(fd: Any) -> None:
        act()
        real(fd)

    os.fsync = fsync
    sys.addaudithook(hook)
