"""What the campaign works on: a tiny model and task, one run of each kind to its end, and what each command makes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tiny_run import SCHEDULE, make_config, make_keys, outcome, tree

from sora_ref.run import summary
from sora_ref.run.config import dump_config
from sora_ref.storage.files import write_bytes
from tests.soak import console

KINDS = ("train", "scheduler")
SHIPPED = {
    "prune": ["prune"],
    "merge": ["merge"],
    "export compact": ["export", "--layout", "compact"],
    "export uniform": ["export", "--layout", "uniform"],
}


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: where it is, what it ended with, the files it has, and how long it took."""

    folder: Path
    outcome: dict[str, Any]
    names: frozenset[str]
    seconds: float


class Ground:
    """A scratch folder with everything in it that the parts start from; nothing of it is ever changed.

    Pictures, most of a tiny run's time, are a dot from here on, in this process and in those forked from it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("draw_ranks", "draw_gates"):
            setattr(summary, name, lambda path, *_: write_bytes(path, b"."))
        self.keys = make_keys(folder / "made")
        self._fresh = 0
        plain = make_config(self.keys)
        scheduled = make_config(self.keys | SCHEDULE | {"adapter.kinds": ["query", "intermediate"]})
        for kind, config in zip(KINDS, (plain, scheduled), strict=True):
            (folder / f"{kind}.toml").write_text(dump_config(config))

    def train(self, kind: str, out: Path, *more: str) -> list[str]:
        """The arguments that train a run of this kind into `out`."""
        return ["train", "--config", str(self.folder / f"{kind}.toml"), "--out", str(out), "--quiet", *more]

    def resume(self, out: Path) -> list[str]:
        """The arguments that go on with the run in `out`."""
        return ["train", "--resume", "--out", str(out), "--quiet"]

    @cached_property
    def wholes(self) -> dict[str, Whole]:
        """One run of each kind to its end."""
        return {kind: self._whole(kind) for kind in KINDS}

    @cached_property
    def shipped(self) -> dict[str, dict[str, str]]:
        """What each command of `SHIPPED` makes of the plain run: file -> digest."""
        found = {}
        for kind, command in SHIPPED.items():
            out = self.folder / "shipped" / kind.replace(" ", "-")
            _require(console.run(self.ship(command, out)))
            found[kind] = tree(out)
        return found

    def ship(self, command: list[str], out: Path) -> list[str]:
        """The arguments of a command that makes a folder of the plain run."""
        return [*command, str(self.wholes["train"].folder), "--out", str(out), "--quiet"]

    def fresh(self) -> Path:
        """A new empty folder."""
        self._fresh += 1
        path = self.folder / "fresh" / str(self._fresh)
        path.mkdir(parents=True)
        return path

    def drop(self, folder: Path) -> None:
        """Remove a folder that `fresh` made."""
        shutil.rmtree(folder, ignore_errors=True)

    def _whole(self, kind: str) -> Whole:
        out = self.folder / "whole" / kind
        ended = console.run(self.train(kind, out))
        _require(ended)
        return Whole(out, outcome(out), names(out), ended.seconds)


def names(run: Path) -> frozenset[str]:
    """Every file of a run by its path in it, checkpoints before the last by number: a polite stop writes its own."""
    found = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    steps = [name for name in found if name.startswith("checkpoints/step-")]
    earlier = {name: f"checkpoints/{place} before the last" for place, name in enumerate(reversed(steps)) if place}
    return frozenset(earlier.get(name, name) for name in found)


def fault_of_run(run: Path, whole: Whole) -> str:
    """How a run that was finished differs from the uninterrupted one; empty where it does not, bit for bit."""
    more, less = sorted(names(run) - whole.names), sorted(whole.names - names(run))
    if more or less:
        return f"other files than an uninterrupted run: {more} too many, {less} missing"
    found = outcome(run)
    different = [key for key in found.keys() | whole.outcome.keys() if found.get(key) != whole.outcome.get(key)]
    return f"ends otherwise than an uninterrupted run in {', '.join(sorted(different))}" if different else ""


def finish_run(ground: Ground, kind: str, out: Path) -> str:
    """Resume a stopped run to its end, or begin it where nothing is there to resume; the fault, empty for none."""
    ended = console.run(ground.resume(out))
    if ended.code == 1 and not ended.fault(1) and not list(out.glob("checkpoints/step-*.safetensors")):
        ended = console.run(ground.train(kind, out))
    return ended.fault(0) or fault_of_run(out, ground.wholes[kind])


def _require(ended: console.Ended) -> None:
    if ended.code != 0 or ended.err:
        raise RuntimeError(f"nothing was disturbed, and yet: exit {ended.code}, {ended.err.strip()}")
