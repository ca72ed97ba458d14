"""Reads damaged files by the thousand, in children that may hang or die; a sample goes through the console."""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tests.soak import console
from tests.soak.fuzz.format import Files, Format, files_of
from tests.soak.ground import Ground
from tests.soak.limits import WAITING, Limits, Seen
from tests.soak.result import SECONDS, Result

PART = "fuzz"
SAMPLE = 100  # one case of so many goes through the console, too
_DEAF = WAITING + 10.0  # seconds after which a child that its own alarms do not wake is killed


def cases(ground: Ground, seed: int, formats: Sequence[Format]) -> Iterator[Result]:
    """Slices of every format by turns, without end; RuntimeError where a format's own files are refused."""
    for format in formats:
        require_sound(ground, format)
    for turn in itertools.count():
        for format in formats:
            first = turn * format.slice
            yield from slice_of(ground, format, seed, range(first, first + format.slice))
            yield from sample_of(ground, format, seed, first + turn % format.slice)


def require_sound(ground: Ground, format: Format) -> None:
    """RuntimeError unless files that nothing was done to are accepted: else nothing would be learnt from the rest."""
    whole = replace(format, damage=_first_alone)
    for seen in slice_of(ground, whole, 0, [0]):
        if seen.fault or seen.outcome != "accepted":
            raise RuntimeError(f"nothing was damaged, and yet: {format.name}: {seen.fault or seen.outcome}")


def _first_alone(rng: random.Random, files: Files) -> Files:
    """The files as they are; what a case is called by where a format names one file of many."""
    first = next(iter(files.values()))
    return {**files, "case.toml": first, "case.txt": first, "TASK": next(iter(files)).partition("/")[0].encode()}


def damaged(format: Format, seed: int, number: int, files: Files) -> dict[str, bytes]:
    """The files of a case: the same for the same format, seed and number."""
    return dict(format.damage(random.Random(f"{seed}/{format.name}/{number}"), files))


def slice_of(ground: Ground, format: Format, seed: int, numbers: Sequence[int]) -> Iterator[Result]:
    """These cases in one child, or in as many as it takes where they die."""
    folder = format.folder(ground)
    files = files_of(folder)
    left = list(numbers)
    while left:
        for seen in _child(ground, format, seed, left, folder, files):
            number = left.pop(0)
            lost = damaged(format, seed, number, files) if seen.fault else {}
            name = f"{PART}:{format.name}:{seed}:{number}"
            yield Result(PART, format.name, name, seen.outcome, seen.fault, seen.seconds, seen.memory, lost)


def sample_of(ground: Ground, format: Format, seed: int, number: int) -> Iterator[Result]:
    """One case through the console: exit 0, 1 or 2, and one line on stderr."""
    if format.console is None:
        return
    work, folder = ground.fresh(), format.folder(ground)
    files = damaged(format, seed, number, files_of(folder))
    shutil.copytree(folder, work / "in")
    _lay(work / "in", files)
    ended = console.run(format.console(work / "in", work))
    name = f"{PART}:{format.name}:{seed}:{number}"
    yield Result(PART, f"{format.name}, console", name, ended.outcome, ended.fault(0, 1, 2), 0.0, ended.memory, files)
    ground.drop(work)


def _child(
    ground: Ground, format: Format, seed: int, numbers: Sequence[int], folder: Path, files: Files
) -> Iterator[Seen]:
    """What a child says of these cases, one after another; one that dies or hangs has its last word said for it."""
    work = ground.fresh()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _be_the_child(format, seed, numbers, folder, files, work, write)
    os.close(write)
    try:
        rest, said = b"", 0
        while said < len(numbers):
            ready, _, _ = select.select([read], [], [], _DEAF)
            piece = os.read(read, 65536) if ready else b""
            if not piece:
                break
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                said += 1
                yield Seen(*json.loads(line))
        if said < len(numbers):
            os.kill(pid, signal.SIGKILL)
            yield Seen("", "", SECONDS, 0)._replace(fault=_last_word(pid))
            pid = 0
    finally:
        os.close(read)
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ground.drop(work)


def _last_word(pid: int) -> str:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == -signal.SIGKILL:
        return f"hangs where no alarm wakes it, for {_DEAF:g} s, or was killed for its memory"
    return f"the process dies of {signal.Signals(-code).name}" if code < 0 else f"the process leaves with {code}"


def _be_the_child(
    format: Format, seed: int, numbers: Sequence[int], folder: Path, files: Files, work: Path, write: int
) -> NoReturn:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        limits = Limits()
        place = work / "in"
        for number in numbers:
            case = damaged(format, seed, number, files)
            if format.fresh or not place.exists():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(folder, place)
            _lay(place, case)
            seen = limits.call(lambda: format.read(place))
            os.write(write, json.dumps(seen._replace(outcome=seen.outcome[:300])).encode() + b"\n")
            _lay(place, {name: files.get(name, b"") for name in case})
        os._exit(0)
    finally:
        os._exit(1)


def _lay(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
