"""Two processes that want the same folder at the same time: one has it, the other says so."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from tiny_run import copy_run, tree

from tests.soak import console
from tests.soak.ground import KINDS, SHIPPED, Ground, fault_of_run, finish_run
from tests.soak.result import Result

PART = "writers"


def cases(ground: Ground, seed: int, only: int | None = None) -> Iterator[Result]:
    """Pairs of `train`, of `train --resume`, and of each command that makes a folder; some seconds apart or at once."""
    for number in itertools.count() if only is None else [only]:
        rng = random.Random(f"{seed}/{PART}/{number}")
        what = (*KINDS, "resume", *SHIPPED)[number % (len(KINDS) + 1 + len(SHIPPED))]
        outcome, fault = _pair(ground, rng, what)
        yield Result(PART, what, f"{PART}:{seed}:{number}", outcome, fault)


def _pair(ground: Ground, rng: random.Random, what: str) -> tuple[str, str]:
    work = ground.fresh()
    out = work / "out"
    kind = what if what in KINDS else "train"
    if what == "resume":
        copy_run(ground.wholes[kind].folder, out)
        (out / "summary.json").unlink()
        max(out.glob("checkpoints/step-*")).unlink()
    if what in SHIPPED:
        arguments = ground.ship(SHIPPED[what], out)
    else:
        arguments = ground.resume(out) if what == "resume" else ground.train(kind, out)
    first = console.start(arguments)
    ended = first.wait(rng.choice((0.0, 0.0, rng.uniform(0.0, ground.wholes[kind].seconds))))
    second = console.start(arguments)
    ends = [ended or first.finish(), second.finish()]
    expected = (0,) if what == "resume" and ended is not None else (0, 1)
    fault = next(filter(None, (end.fault(*expected) for end in ends)), "")
    if not fault and all(end.code for end in ends):
        fault = "neither of the two did it"
    refusals = [end.outcome for end in ends if end.code]
    if not fault and what in SHIPPED:
        fault = "" if tree(out) == ground.shipped[what] else "the folder is another than one process makes"
    elif not fault:
        fault = fault_of_run(out, ground.wholes[kind]) if refusals else finish_run(ground, kind, out)
    left = sorted(path.name for path in work.iterdir() if path != out)
    if not fault and left:
        fault = f"leaves {', '.join(left)}"
    if not fault:
        ground.drop(work)
    return refusals[0] if refusals else "one after the other", fault
