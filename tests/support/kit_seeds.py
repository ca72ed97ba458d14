"""Runs right implementations over many seeds: no check may refuse any of them, ever.

python tests/support/kit_seeds.py SEEDS [--max-examples N] FILE.py:Name ...
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

from sora_ref.conformance import Implementation, check_implementation


def implementation_at(address: str) -> type[Implementation]:
    """The implementation of this name in a file."""
    file, _, name = address.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    implementation: type[Implementation] = getattr(module, name)
    return implementation


def main() -> int:
    """A line for every refusal and, at the end, one for every implementation; 1 where there was any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--max-examples", type=int, default=50)
    parser.add_argument("implementations", nargs="+", metavar="FILE.py:Name")
    given = parser.parse_args()
    refused = 0
    for address in given.implementations:
        began, checks, implementation = time.perf_counter(), 0, implementation_at(address)
        for seed in range(given.first, given.first + given.seeds):
            report = check_implementation(implementation, seed=seed, max_examples=given.max_examples)
            checks += report.counts()["passed"]
            for outcome in report.shortcomings():
                refused += 1
                case = outcome.refusal.case if outcome.refusal else ""
                print(
                    f"{address}, seed {seed}: {outcome.check.id} {outcome.refusal or outcome.reason}\n{case}",
                    flush=True,
                )
        seconds = time.perf_counter() - began
        print(f"{address}: {given.seeds} seeds, {checks} checks passed, {refused} refused, {seconds:.0f} s", flush=True)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
