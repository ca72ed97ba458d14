"""`make bench`: sora_ref against PyTorch on the same work, by turns, in one run.

Every figure is a median of so many runs, each side in a process of its own; a ratio is ours over theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from job import Job, gemm_flops
from measure import Process, by_turns, median, peak
from report import Row, draw, machine, table, to_json

REPETITIONS = 9


def against_torch(name: str, job: Job, target: float | None, repetitions: int) -> Row:
    """The ratio to PyTorch of one job."""
    seconds = by_turns({"ours": job, "torch": job.on("torch")}, repetitions)
    ours, theirs = median(seconds["ours"]), median(seconds["torch"])
    return Row(name, ours / theirs, target=target, detail=f"{ms(ours)} to {ms(theirs)}")


def steps(n: int) -> Iterator[Row]:
    """The targets."""
    yield against_torch("train 32×128", Job(), 0.75, n)
    yield against_torch("train 16×64", Job(batch=16, length=64), 0.80, n)
    infer = Job(what="infer", tokens=1024)
    yield against_torch("infer 32×128, unmerged", infer, 0.85, n)
    yield against_torch("infer 32×128, merged", replace(infer, merged=True), 0.85, n)
    yield against_torch("train movie batches, random", Job(length=0, batches=4), 0.50, n)
    yield against_torch("train movie batches, by length", Job(length=0, batches=4, order="buckets"), 0.80, n)


def memory(n: int) -> Iterator[Row]:
    """Peak process memory of a training step."""
    for what, job, target in (("train", Job(), 0.25), ("infer", Job(what="infer", tokens=1024), None)):
        ours, theirs = peak(job), peak(job.on("torch"))
        detail = f"{ours / 2**20:.0f} MB to {theirs / 2**20:.0f} MB"
        yield Row(f"peak memory, {what} 32×128", ours / theirs, target=target, detail=detail)


def roofline(n: int) -> Iterator[Row]:
    """The share of its time that a step would take if it were its matrix products alone, at the rate of the largest."""
    job = Job()
    with Process(job) as process:
        process.ask("run")
        rates, seconds = [], []
        for _ in range(n):
            rates.append(process.ask("gemm", workers=job.workers)["rate"])
            seconds.append(process.ask("run")["seconds"])
    rate, flops = median(rates), gemm_flops(job)
    detail = f"{flops / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s: {ms(flops / rate)} of {ms(median(seconds))}"
    yield Row(
        "GEMM roofline, train 32×128", flops / rate / median(seconds), target=0.75, asks="at least", detail=detail
    )


def gates(n: int) -> Iterator[Row]:
    """What gates cost, and what folding the adapters into the weights saves."""
    seconds = by_turns({"SoRA": Job(), "LoRA": Job(gated=False)}, n)
    sora, lora = median(seconds["SoRA"]), median(seconds["LoRA"])
    yield Row("SoRA over LoRA, train 32×128", sora / lora, target=1.03, detail=f"{ms(sora)} to {ms(lora)}")
    for rank in (8, 64, 256):
        job = Job(rank=rank, closed=0.7, fold=False)
        seconds = by_turns({"beside": job, "folded": replace(job, fold=True)}, max(n // 2, 3))
        beside, folded = median(seconds["beside"]), median(seconds["folded"])
        yield Row(
            f"adapters folded into the weights, r = {rank}, 70 % closed",
            folded / beside,
            detail=f"{ms(folded)} to {ms(beside)}",
        )


def shapes(n: int) -> Iterator[Row]:
    """Against length, batch and rank."""
    few = max(n // 2, 3)
    for batch, length in ((128, 32), (64, 64), (8, 512), (8, 128), (64, 128)):
        yield against_torch(f"train {batch}×{length}", Job(batch=batch, length=length), None, few)
    for rank in (1, 64):
        yield against_torch(f"train 32×128, r = {rank}", Job(rank=rank), None, few)


def others(n: int) -> Iterator[Row]:
    """Against PEFT, against the specification's own operations, and PyTorch with memory kept as ours is."""
    job = Job()
    jobs = {
        "ours": job,
        "peft": job.on("peft"),
        "reference": replace(job, kernels="reference"),
        "torch": job.on("torch"),
    }
    seconds = by_turns(jobs | {"torch, memory kept": replace(job.on("torch"), keep_memory=True)}, max(n // 2, 3))
    found = {name: median(values) for name, values in seconds.items()}
    for name, words in (
        ("peft", "train 32×128, to transformers with PEFT's LoRA"),
        ("reference", "train 32×128, to the reference kernels"),
        ("torch, memory kept", "train 32×128, to torch told to keep freed memory"),
    ):
        yield Row(words, found["ours"] / found[name], detail=f"{ms(found['ours'])} to {ms(found[name])}")


def demo(n: int) -> Iterator[Row]:
    """The demonstration's SoRA run, whole."""
    found = {}
    for side in ("torch", "ours"):
        with Process() as process:
            found[side] = process.ask("demo", side=side)
    ours, theirs = found["ours"], found["torch"]
    detail = f"{ours['seconds']:.0f} s to {theirs['seconds']:.0f} s"
    yield Row("the demo's SoRA run, training", ours["seconds"] / theirs["seconds"], detail=detail)
    for side, facts in found.items():
        kept = f"{facts['kept']} of 288 components kept"
        yield Row(f"the demo's SoRA run, test accuracy, {side}", facts["accuracy"], unit="share", detail=kept)


def ms(seconds: float) -> str:
    """Milliseconds, for people."""
    return f"{1000 * seconds:.0f} ms"


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "steps": steps,
    "memory": memory,
    "roofline": roofline,
    "gates": gates,
    "shapes": shapes,
    "others": others,
    "demo": demo,
}


def main() -> None:
    """Measure, print, and write bench.json, bench.md and bench.png."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("build"))
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    asked = parser.parse_args()
    unknown = sorted(set(asked.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part {unknown[0]}: expected some of {', '.join(PARTS)}")
    facts, rows = machine(), list[Row]()
    facts["repetitions"] = asked.repetitions
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.parts or PARTS:
        for row in PARTS[name](asked.repetitions):
            print("  ".join(filter(None, row.words())), flush=True)
            rows.append(row)
            write(asked.out, rows, facts)
    missed = [row.name for row in rows if row.met is False]
    print(f"{asked.out}/bench.json: {len(rows)} results, {len(missed)} targets missed", file=sys.stderr)


def write(out: Path, rows: list[Row], facts: dict[str, Any]) -> None:
    """All that is known so far, so that a run that is interrupted has what it measured."""
    facts["load at the end"] = machine()["load"]
    (out / "bench.json").write_text(to_json(rows, facts), encoding="utf-8")
    (out / "bench.md").write_text(table(rows), encoding="utf-8")
    draw(out / "bench.png", rows, f"ours over PyTorch {facts['versions']['torch']}, {facts['processor']}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("make bench: interrupted; what was measured is written", file=sys.stderr)
        sys.exit(130)
    except RuntimeError as error:
        print(f"make bench: {error}", file=sys.stderr)
        sys.exit(1)
