"""`make soak`: run the parts by turns until the time is up, print totals, and fail where a case did."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.soak import crashes, disk, fetching, kills, writers
from tests.soak.fuzz import engine
from tests.soak.fuzz.formats import FORMATS
from tests.soak.ground import Ground
from tests.soak.report import Report
from tests.soak.result import BYTES, Result

SHARES = {"kills": 0.2, "crashes": 0.2, "fuzz": 0.45, "disk": 0.08, "writers": 0.05, "fetch": 0.02}
_EVERY = 10.0  # seconds between two lines of progress


def part(name: str, ground: Ground, seed: int, formats: list[str], note: Callable[[str], None]) -> Iterator[Result]:
    """The cases of a part, without end but for `crashes`, which has each change of the disk once."""
    makers: dict[str, Callable[[], Iterator[Result]]] = {
        "kills": lambda: kills.cases(ground, seed),
        "crashes": lambda: crashes.cases(ground, seed),
        "fuzz": lambda: engine.cases(ground, seed, [FORMATS[name] for name in formats or FORMATS]),
        "disk": lambda: disk.cases(ground, seed, note),
        "writers": lambda: writers.cases(ground, seed),
        "fetch": lambda: fetching.cases(ground, seed),
    }
    return makers[name]()


def again(case: str, ground: Ground) -> Iterator[Result]:
    """The one case of this name, as a report prints it."""
    name, *rest = case.split(":")
    if name == "fuzz":
        format, seed, number = FORMATS[rest[0]], int(rest[1]), int(rest[2])
        yield from engine.slice_of(ground, format, seed, [number])
        yield from engine.sample_of(ground, format, seed, number)
    elif name == "crashes":
        yield from crashes.one(ground, case)
    elif name == "disk":
        yield from disk.one(ground, case)
    else:
        module = {"kills": kills, "writers": writers, "fetch": fetching}[name]
        yield from module.cases(ground, int(rest[0]), int(rest[1]))


def roomy() -> Path | None:
    """A file system in memory with room, which makes cases cheap; None for the usual place of scratch folders."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * BYTES else None


def main() -> None:
    """Parse the options, run, report."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long; an hour by default")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(10**6), help="printed, and new every time"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PART[:FORMAT]",
        help=f"of {', '.join(SHARES)}; fuzz of {', '.join(FORMATS)}",
    )
    parser.add_argument(
        "--case", action="append", default=[], help="run these cases again, by the names that a report gives them"
    )
    parser.add_argument("--out", type=Path, default=Path("build"))
    asked = parser.parse_args()
    parts: dict[str, list[str]] = {name.partition(":")[0]: [] for name in asked.only} or {name: [] for name in SHARES}
    for name in asked.only:
        head, _, format = name.partition(":")
        if head not in SHARES or (format and (head != "fuzz" or format not in FORMATS)):
            parser.error(f"no part {name}: expected some of {', '.join(SHARES)}, or fuzz:FORMAT")
        parts[head] += [format] if format else []
    report = Report(asked.out / "soak", asked.seed)
    began = time.monotonic()
    print(f"make soak: seed {asked.seed}, {asked.seconds:.0f} s, {', '.join(asked.case or parts)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sora-ref-soak-", dir=roomy()) as scratch:
        ground = Ground(Path(scratch).resolve())
        stopped = False
        try:
            for case in asked.case:
                _run(again(case, ground), report, asked.seconds, case)
            left = {} if asked.case else dict(parts)
            while left:
                name = next(iter(left))
                formats = left.pop(name)
                over = asked.seconds - (time.monotonic() - began)
                share = SHARES[name] / (SHARES[name] + sum(SHARES[other] for other in left))
                _run(part(name, ground, asked.seed, formats, report.notes.append), report, over * share, name)
        except KeyboardInterrupt:
            stopped = True
    facts = {"seconds": round(time.monotonic() - began), "stopped": stopped}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "soak.json").write_text(report.to_json(facts), encoding="utf-8")
    print(report.table())
    for line in report.failures():
        print(f"FAILED {line}")
    words = f"{report.cases:,} cases in {facts['seconds']} s, {report.failed:,} failed, of {len(report.causes)} causes"
    print(f"make soak: seed {asked.seed}: {words}; {asked.out}/soak.json" + ("; interrupted" if stopped else ""))
    sys.exit(130 if stopped else 1 if report.failed else 0)


def _run(results: Iterator[Result], report: Report, seconds: float, name: str) -> None:
    """Take results until the time of the part is up, with a line of progress now and then."""
    began = said = time.monotonic()
    for count, result in enumerate(results, start=1):
        now = time.monotonic()
        if report.add(result):
            print(f"FAILED {result.case}: {' '.join(result.fault.split())}", flush=True)
        if now - said > _EVERY:
            print(f"{name}: {count:,} cases, {now - began:.0f} of {seconds:.0f} s", file=sys.stderr, flush=True)
            said = now
        if now - began > seconds:
            break
    close = getattr(results, "close", None)
    if close is not None:
        close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
