"""The parts of the benchmark: what is measured, and the targets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import facts
from job import Job, Side, gemm_flops
from measure import Process, by_turns, median, peak
from report import Figure, Row
from sides import NAMES, ROOT, missing


@dataclass(frozen=True)
class Step:
    """A piece of work that has targets: at most these ratios, to PyTorch eager by instruction set, and to before."""

    name: str
    job: Job
    torch: Mapping[str, float]
    before: float


STEPS = (
    Step("train 32×128", Job(), {"avx512f": 0.80, "avx2": 0.60}, 0.68),
    Step("train 16×64", Job(batch=16, length=64), {"avx512f": 0.85, "avx2": 0.65}, 0.70),
    Step(
        "infer 32×128, merged",
        Job(what="infer", tokens=1024, merged=True),
        {"avx512f": 0.95, "avx2": 0.80},
        0.70,
    ),
    Step(
        "train movie batches, by length",
        Job(length=0, batches=4, order="buckets"),
        {"avx512f": 0.85, "avx2": 0.65},
        0.68,
    ),
    Step("train movie batches, random", Job(length=0, batches=4), {"avx512f": 0.50, "avx2": 0.50}, 0.75),
)


def steps(n: int) -> Iterator[Row]:
    """The targets: every side that there is, by turns."""
    for step in STEPS:
        sides: list[Side] = ["torch", "compile", "before"]
        if step.job.what == "train":
            sides.append("peft")
        yield against(step.name, step.job, sides, n, torch=step.torch.get(facts.instructions()), before=step.before)


def against(
    name: str, job: Job, sides: Sequence[Side], n: int, torch: float | None = None, before: float | None = None
) -> Row:
    """The ratios of one job to these sides, PyTorch eager among them; one that cannot run is left out and named."""
    absent = {side: why for side in sides if (why := missing(side)) is not None}
    there: list[Side] = ["ours", *(side for side in sides if side not in absent)]
    seconds = by_turns({side: job.on(side) for side in there}, n)
    found = {side: median(seconds[side]) for side in there}
    return Row(
        name,
        Figure(found["ours"] / found["torch"], torch),
        beside={
            side: Figure(found["ours"] / found[side], before if side == "before" else None)
            for side in there
            if side not in ("ours", "torch")
        },
        detail=", ".join(
            [f"{NAMES[side]} {ms(found[side])}" for side in there]
            + [f"no {NAMES[side]}: {why}" for side, why in absent.items()]
        ),
    )


def pair(name: str, ours: float, theirs: float, target: float | None = None) -> Row:
    """The ratio of two times."""
    return Row(name, Figure(ours / theirs, target), detail=f"{ms(ours)} to {ms(theirs)}")


def memory(n: int) -> Iterator[Row]:
    """Peak process memory."""
    sides: list[Side] = ["ours", "torch", "before"]
    there = [side for side in sides if missing(side) is None]
    for what, job, target in (("train", Job(), 0.19), ("infer", Job(what="infer", tokens=1024), None)):
        found = {side: peak(job.on(side)) for side in there}
        beside = {"before": Figure(found["ours"] / found["before"])} if "before" in found else {}
        yield Row(
            f"peak memory, {what} 32×128",
            Figure(found["ours"] / found["torch"], target),
            beside=beside,
            detail=", ".join(f"{NAMES[side]} {size / 2**20:.0f} MB" for side, size in found.items()),
        )


def roofline(n: int) -> Iterator[Row]:
    """The share of its time that a step would take if it were its matrix products alone, at the rate of the largest."""
    job = Job()
    with Process(job) as process:
        for _ in range(2):
            process.ask("run")
        rates, seconds = [], []
        for _ in range(n):
            rates.append(process.ask("gemm", workers=job.workers)["rate"])
            seconds.append(process.ask("run")["seconds"])
    rate, flops = median(rates), gemm_flops(job)
    yield Row(
        "GEMM roofline, train 32×128",
        Figure(flops / rate / median(seconds), 0.82, "at least"),
        detail=f"{flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s: {ms(flops / rate)} of {ms(median(seconds))}",
    )


def gates(n: int) -> Iterator[Row]:
    """What gates cost, and what folding the adapters into the weights saves."""
    seconds = by_turns({"SoRA": Job(), "LoRA": Job(gated=False)}, n)
    yield pair("SoRA over LoRA, train 32×128", median(seconds["SoRA"]), median(seconds["LoRA"]), 1.03)
    for rank in (8, 64, 256):
        job = Job(rank=rank, closed=0.7, fold=False)
        seconds = by_turns({"beside": job, "folded": replace(job, fold=True)}, few(n))
        name = f"adapters folded into the weights, r = {rank}, 70 % closed"
        yield pair(name, median(seconds["folded"]), median(seconds["beside"]))


def sets(n: int) -> Iterator[Row]:
    """What each set of kernels gains over the next."""
    names = facts.sets()
    for what, job in (("train", Job()), ("infer", Job(what="infer", tokens=1024, merged=True))):
        seconds = by_turns({name: replace(job, kernels=name) for name in names}, few(n))  # type: ignore[arg-type]
        for faster, slower in pairwise(names):
            name = f"{what} 32×128, {faster} kernels to {slower}"
            yield pair(name, median(seconds[faster]), median(seconds[slower]))


def start(n: int) -> Iterator[Row]:
    """How long a user waits for the first thing to happen, all caches being warm."""
    bare = {words: median([command("-c", words) for _ in range(n)]) for words in ("pass", "import numpy")}
    beside = ", ".join(f"python -c '{words}' {ms(seconds)}" for words, seconds in bare.items())
    waits: tuple[tuple[str, Callable[[], float], float, str], ...] = (
        ("sora-ref --help", lambda: command(str(ROOT / "_sora_ref_cli.py"), "--help"), 0.15, beside),
        ("import sora_ref", lambda: command("-c", "import sora_ref"), 0.12, beside),
        ("from the start to the first training step's end, 16×64", first_step, 2.0, ""),
    )
    for name, clock, target, detail in waits:
        clock()
        yield Row(name, Figure(median([clock() for _ in range(n)]), target), unit="s", detail=detail)


def command(*arguments: str) -> float:
    """Seconds that Python takes for these arguments, from its start to its end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def first_step() -> float:
    """Seconds from the start of a process to the end of its first training step; of libraries, weights and the step."""
    began = time.perf_counter()
    with Process(Job(batch=16, length=64)) as process:
        process.ask("run")
        return time.perf_counter() - began


def shapes(n: int) -> Iterator[Row]:
    """Against length, batch and rank."""
    yield against("infer 32×128, unmerged", Job(what="infer", tokens=1024), ["torch", "before"], few(n))
    for batch, length in ((128, 32), (64, 64), (8, 512), (8, 128), (64, 128)):
        yield against(f"train {batch}×{length}", Job(batch=batch, length=length), ["torch", "before"], few(n))
    for rank in (1, 64):
        yield against(f"train 32×128, r = {rank}", Job(rank=rank), ["torch", "before"], few(n))


def allocator(n: int) -> Iterator[Row]:
    """Against PyTorch whose process keeps freed memory as ours does."""
    job = Job()
    seconds = by_turns({"ours": job, "torch": replace(job.on("torch"), keep_memory=True)}, few(n))
    name = "train 32×128, to torch told to keep freed memory"
    yield pair(name, median(seconds["ours"]), median(seconds["torch"]))


def demo(n: int) -> Iterator[Row]:
    """The demonstration's SoRA run, whole."""
    sides: list[Side] = ["torch", "before", "ours"]
    found = {}
    for side in sides:
        if missing(side) is None:
            with Process(side=side) as process:
                found[side] = process.ask("demo", side="torch" if side == "torch" else "ours")
    took = {side: run["seconds"] for side, run in found.items()}
    yield Row(
        "the demo's SoRA run, training",
        Figure(took["ours"] / took["torch"]),
        beside={"before": Figure(took["ours"] / took["before"])} if "before" in took else {},
        detail=", ".join(f"{NAMES[side]} {seconds:.0f} s" for side, seconds in took.items()),
    )
    for side, run in found.items():
        kept = f"{run['kept']} of 288 components kept"
        yield Row(f"the demo's SoRA run, test accuracy, {side}", Figure(run["accuracy"]), unit="share", detail=kept)


def few(n: int) -> int:
    """Repetitions of what has no target."""
    return max(n // 2, min(n, 3))


def ms(seconds: float) -> str:
    """Milliseconds, for people."""
    return f"{1000 * seconds:.0f} ms"


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "steps": steps,
    "memory": memory,
    "roofline": roofline,
    "start": start,
    "sets": sets,
    "gates": gates,
    "shapes": shapes,
    "allocator": allocator,
    "demo": demo,
}
