"""Disks that are full, or may only be read: one sentence, nothing lost, and it goes on when there is room again."""

from __future__ import annotations

import itertools
import os
import random
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tiny_run import tree

from tests.soak import console
from tests.soak.crashes import FOREIGN
from tests.soak.ground import KINDS, SHIPPED, Ground, finish_run
from tests.soak.result import Result

PART = "disk"
PAGE = 4096
ENOUGH = "16m"


def cases(ground: Ground, seed: int, note: Callable[[str], None]) -> Iterator[Result]:
    """Small disks of every number of pages, files that may not grow past a size, and a disk that may only be read."""
    mounts = can_mount(ground)
    if not mounts:
        note("disk: small and read-only file systems left out: mounting one is not allowed here")
    needed = {command: _size(ground, command) for command in (*KINDS, *SHIPPED)}
    pages = {command: range(2, 3 * size // PAGE + 12) for command, size in needed.items()}
    rng = random.Random(f"{seed}/{PART}")
    if mounts:
        for command in needed:
            yield from _one(ground, command, "read-only", 0)
    for _ in itertools.count():
        for command, size in needed.items():
            yield from _one(ground, command, "limit", rng.randrange(1, size))
            if mounts:
                yield from _one(ground, command, "pages", rng.choice(pages[command]))


def one(ground: Ground, name: str) -> Iterator[Result]:
    """The case of this name."""
    _, command, how, number = name.split(":")
    yield from _one(ground, command, how, int(number))


def _one(ground: Ground, command: str, how: str, number: int) -> Iterator[Result]:
    outcome, fault = {"limit": _limited, "pages": _small, "read-only": _read_only}[how](ground, command, number)
    yield Result(PART, f"{command}, {how}", f"{PART}:{command}:{how}:{number}", outcome, fault)


def _limited(ground: Ground, command: str, size: int) -> tuple[str, str]:
    """No file may grow past a size (RLIMIT_FSIZE), which is what a quota says, to the byte."""
    work = ground.fresh()

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    found = _refused_then_done(ground, command, work, before, lambda: None)
    ground.drop(work)
    return found


def _small(ground: Ground, command: str, pages: int) -> tuple[str, str]:
    with mounted(ground, f"size={pages * PAGE}") as work:
        return _refused_then_done(
            ground, command, work, lambda: None, lambda: _mount("-o", f"remount,size={ENOUGH}", str(work))
        )


def _read_only(ground: Ground, command: str, _: int) -> tuple[str, str]:
    with mounted(ground, f"size={ENOUGH}") as work:
        (work / "neighbour.txt").write_text(FOREIGN)
        _mount("-o", "remount,ro", str(work))
        return _refused_then_done(ground, command, work, lambda: None, lambda: _mount("-o", "remount,rw", str(work)))


def _refused_then_done(
    ground: Ground, command: str, work: Path, before: Callable[[], None], make_room: Callable[[], None]
) -> tuple[str, str]:
    """A command that meets the limit says so in a sentence; with room, the same work is done."""
    out = work / "out"
    training = command in KINDS
    arguments = ground.train(command, out) if training else ground.ship(SHIPPED[command], out)
    before_it = tree(ground.wholes["train"].folder)
    ended = console.run(arguments, before)
    fault = ended.fault(0, 1)
    if not fault and ended.code == 1 and not training and sorted(path.name for path in work.glob("*out*")):
        fault = f"leaves {sorted(path.name for path in work.glob('*out*'))} behind"
    if not fault and tree(ground.wholes["train"].folder) != before_it:
        fault = "changed the run that it read"
    if fault:
        return ended.outcome, fault
    make_room()
    if training:
        return ended.outcome, finish_run(ground, command, out)
    if ended.code == 1:
        again = console.run(arguments)
        fault = again.fault(0)
    return ended.outcome, fault or ("" if tree(out) == ground.shipped[command] else "other files than without a limit")


def can_mount(ground: Ground) -> bool:
    """Whether this process may mount a file system."""
    try:
        with mounted(ground, f"size={PAGE}"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def mounted(ground: Ground, options: str) -> Iterator[Path]:
    """A file system in memory, gone afterwards."""
    place = ground.fresh()
    _mount("-t", "tmpfs", "-o", options, "sora-ref-soak", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)
        ground.drop(place)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})


def _size(ground: Ground, command: str) -> int:
    """Bytes of the largest file that a command makes."""
    if command in KINDS:
        return max(path.stat().st_size for path in ground.wholes[command].folder.rglob("*") if path.is_file())
    assert ground.shipped[command]
    folder = ground.folder / "shipped" / command.replace(" ", "-")
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
