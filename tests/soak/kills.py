"""Runs that are killed at random times, again and again, and resumed: they end as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.soak import console
from tests.soak.console import Child, Ended
from tests.soak.ground import KINDS, Ground, finish_run
from tests.soak.result import Result, pattern

PART = "kills"
POLITE = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def cases(ground: Ground, seed: int, only: int | None = None) -> Iterator[Result]:
    """Chains of up to four signals to one run; a result a signal, all of a chain with its verdict.

    Two chains of three kill (SIGKILL); the third asks politely, which writes a checkpoint and exits 128 + the signal.
    Every tenth run is a Python of its own, from its first import on; the others are forked from this one.
    """
    for number in itertools.count() if only is None else [only]:
        rng = random.Random(f"{seed}/{PART}/{number}")
        kind = KINDS[number % 2]
        out = ground.fresh() / "run"
        sent, fault = _chain(ground, rng, kind, out, polite=number % 3 == 2, own=number % 10 == 9)
        fault = fault or finish_run(ground, kind, out)
        for name in sent:
            yield Result(PART, f"{kind}, {name}", f"{PART}:{seed}:{number}", "resumed", fault)
        if not fault:
            ground.drop(out.parent)


def _chain(
    ground: Ground, rng: random.Random, kind: str, out: Path, *, polite: bool, own: bool
) -> tuple[list[str], str]:
    """The signals that were sent, by name, and the fault, empty for none."""
    sent: list[str] = []
    for _ in range(rng.randint(1, 4)):
        begun = bool(list(out.glob("checkpoints/step-*.safetensors")))
        arguments = ground.resume(out) if begun else ground.train(kind, out)
        child = _own(arguments) if own else console.start(arguments)
        span = ground.wholes[kind].seconds + (2.0 if own else 0.0)
        ended = child.wait(rng.uniform(0.0, span))
        number = rng.choice(list(POLITE)) if polite else signal.SIGKILL
        if ended is not None:
            return sent, ended.fault(0)
        ended = child.end(number)
        sent.append(signal.Signals(number).name)
        fault = _fault_of_stop(ended, number, out) if polite else ended.fault(-signal.SIGKILL, 0)
        if fault:
            return sent, fault
        if ended.code == 0:
            break
    return sent, ""


def _fault_of_stop(ended: Ended, number: signal.Signals, out: Path) -> str:
    """A polite signal ends a run with a checkpoint of the step it names; outside training there is nothing to save."""
    if ended.code == -number and not _lost(out):
        return ""
    fault = ended.fault(POLITE[number], 0)
    if fault or "stopped at step " not in ended.err:
        return fault
    step = int(ended.err.partition("stopped at step ")[2].split(";")[0])
    last = sorted(out.glob("checkpoints/step-*.safetensors"))[-1].name
    return "" if last == f"step-{step:08d}.safetensors" else f"says {pattern(ended.err)}, but the last is {last}"


def _lost(out: Path) -> bool:
    """Whether steps were logged that no checkpoint has."""
    found = sorted(out.glob("checkpoints/step-*.safetensors"))
    last = int(found[-1].stem.removeprefix("step-")) if found else 0
    log = out / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()] if log.exists() else []
    return max(steps, default=0) > last


def _own(arguments: list[str]) -> Child:
    """The command in a Python of its own."""
    out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (read at its end)
    command = [sys.executable, "-m", "sora_ref.cli.main", *arguments]
    process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=dict(os.environ))
    process.returncode = 0  # `Child` waits for it, not this object
    return Child(process.pid, out, err)
