"""What is fuzzed: a format has a folder of valid files, a way to damage them, and the code that reads them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.soak.ground import Ground

MOST = 2**23  # bytes of a damaged file: memory is judged against small ones
Files = Mapping[str, bytes]  # by their path in the folder


@dataclass(frozen=True)
class Format:
    """One format.

    folder:  of valid files, on the ground that the campaign has prepared.
    damage:  some of these files as they are to be laid over the folder.
    read:    everything that reads them; it returns, or raises SoRAError.
    slice:   cases that one process reads, before the turn of another format.
    console: the command that reads such a folder, for the sample that goes through the console; it may write into the
             second folder.
    fresh:   whether reading changes the folder, so that each case needs a new one.
    """

    name: str
    folder: Callable[[Ground], Path]
    damage: Callable[[random.Random, Files], Files]
    read: Callable[[Path], Any]
    slice: int = 200
    console: Callable[[Path, Path], list[str]] | None = None
    fresh: bool = False


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def some(rng: random.Random, data: bytes, change: Callable[[random.Random, bytes], bytes]) -> bytes:
    """One to three changes one after another, which is where readers meet what no single fault leads to."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = change(rng, data)[:MOST]
    return data
