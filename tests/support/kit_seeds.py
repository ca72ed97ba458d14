"""Runs right implementations over many seeds: no check may refuse any of them, ever.

python tests/support/kit_seeds.py SEEDS [--max-examples N] FILE.py:Adapter ...
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

from sora_ref.conformance import Adapter, check_adapter


def adapter_at(address: str) -> type[Adapter]:
    """The adapter of this name in a file."""
    file, _, name = address.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    adapter: type[Adapter] = getattr(module, name)
    return adapter


def main() -> int:
    """A line for every refusal and, at the end, one for every adapter; 1 where there was any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--max-examples", type=int, default=50)
    parser.add_argument("adapters", nargs="+", metavar="FILE.py:Adapter")
    given = parser.parse_args()
    refused = 0
    for address in given.adapters:
        began, checks, adapter = time.perf_counter(), 0, adapter_at(address)
        for seed in range(given.first, given.first + given.seeds):
            report = check_adapter(adapter, seed=seed, max_examples=given.max_examples)
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
