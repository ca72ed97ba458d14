"""`make gpu`: the tests of the array space "cupy", the tests of the device, the benchmark; and build/gpu.json.

It runs in the Python it is started with, which needs CuPy, NumPy, SciPy, PyTorch, Hypothesis, pytest, safetensors and
tokenizers.  What else is missing is installed into build/gpu-site from the wheels in build/wheels, without a network;
`make gpu-wheels` fetches those where there is one.  The project itself is run from its folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SITE, WHEELS, RESULT = BUILD / "gpu-site", BUILD / "wheels", BUILD / "gpu.json"
# Module -> distribution.  The first are the machine's own; the others are small, and carried where they are missing.
OWN = {name: name for name in ("cupy", "numpy", "scipy", "torch", "hypothesis", "pytest", "safetensors", "tokenizers")}
CARRIED = {
    "array_api_compat": "array-api-compat",
    "click": "click",
    "msgspec": "msgspec",
    "platformdirs": "platformdirs",
    "threadpoolctl": "threadpoolctl",
    "tomli_w": "tomli-w",
    "tqdm": "tqdm",
}
PYTHONS = ("3.11", "3.12", "3.13")  # for which wheels are carried
FILES = (
    "tests/test_preconditions.py",
    "tests/test_linear.py",
    "tests/test_prox.py",
    "tests/test_optim.py",
    "tests/test_gate.py",
    "tests/test_step.py",
    "tests/test_pruning.py",
    "tests/test_count.py",
    "tests/test_bound_formulas.py",
    "tests/models",
)


class FailedError(Exception):
    """Why there is no result, in one sentence."""


def main(arguments: Sequence[str]) -> int:
    """0 where all tests pass and the benchmark ran, whatever it says; else 1, with a sentence."""
    try:
        if list(arguments) == ["wheels"]:
            fetch_wheels()
            return 0
        if not (ROOT / "sora_ref" / "backends" / "__init__.py").is_file():
            raise FailedError(
                f"{ROOT / 'sora_ref/backends'} is no link to backends: expected a checkout with its two links"
            )
        complete()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SITE)])}
        require_gpu(environment)
        facts = {"device": ask(environment, "device"), "versions": versions(), "commit": commit()}
        tests = [run_tests(environment, name, of) for name, of in (("spaces", FILES), ("device", ("tests/gpu",)))]
        rows = run_benchmark(environment)
    except FailedError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 1
    BUILD.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**facts, "tests": tests, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    missed = [row["name"] for row in rows if row["met"] is False]
    print(f"{RESULT}: {len(rows)} rows, {len(missed)} targets missed{': ' if missed else ''}{', '.join(missed)}")
    return int(any(test["failed"] for test in tests))


def complete() -> None:
    """Install what this Python lacks of the small packages; FailedError where a wheel or a large one is missing."""
    sys.path.append(str(SITE))
    absent = [name for module, name in OWN.items() if module != "torch" and find_spec(module) is None]
    if absent:
        raise FailedError(f"{sys.executable} has no {', '.join(absent)}: expected one with CuPy and pytest")
    lacking = [name for module, name in CARRIED.items() if find_spec(module) is None]
    if not lacking:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--find-links", str(WHEELS)]
    done = subprocess.run([*pip, "--target", str(SITE), *lacking], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(
            f"{', '.join(lacking)} cannot be installed from {WHEELS}: "
            "run `make gpu-wheels` where there is a network, and carry that folder here"
        )


def fetch_wheels() -> None:
    """The wheels of `CARRIED` for every Python of `PYTHONS` on Linux x86-64, into build/wheels."""
    names = [line.strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    pins = {name.partition("==")[0].replace("_", "-"): name for name in names if "==" in name}
    for python in PYTHONS:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        target = ["--python-version", python, "--platform", "manylinux2014_x86_64", "--dest", str(WHEELS)]
        wanted = [pins.get(name, name) for name in CARRIED.values()]
        if subprocess.run([*pip, *target, *wanted], check=False).returncode:
            raise FailedError(f"the wheels for Python {python} cannot be fetched: expected a network")
    print(f"{WHEELS}: {len(list(WHEELS.glob('*.whl')))} wheels")


def require_gpu(environment: dict[str, str]) -> None:
    """FailedError, with the backend's own sentence, where CuPy cannot compute here."""
    code = (
        "import sys\nfrom sora_ref import SoRAError\nfrom sora_ref.run.device import get_backend\n"
        "try:\n    get_backend('cupy')\nexcept SoRAError as error:\n    sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"Python ended with {done.returncode}"]
        raise FailedError(f"no GPU, so nothing was run: {lines[-1]}")


def ask(environment: dict[str, str], what: str) -> Any:
    """What bench.py says about the device."""
    command = [sys.executable, str(ROOT / "tests" / "gpu" / "bench.py"), what]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def run_tests(environment: dict[str, str], name: str, files: Sequence[str]) -> dict[str, Any]:
    """Counts of one pytest run, without what needs another array space."""
    report = BUILD / f"gpu-{name}.xml"
    BUILD.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-k", "cupy"]
    paths = [str(ROOT / file) for file in files]
    subprocess.run([*command, f"--junitxml={report}", *paths], env=environment, cwd=ROOT, check=False)
    if not report.is_file():
        raise FailedError(f"pytest wrote no {report}: its own words stand above")
    suites = ET.parse(report).getroot().iter("testsuite")
    sums = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in suites:
        sums = {key: value + int(suite.get(key, "0")) for key, value in sums.items()}
    failed = sums["failures"] + sums["errors"]
    passed = sums["tests"] - failed - sums["skipped"]
    return {"name": name, "passed": passed, "failed": failed, "skipped": sums["skipped"]}


def run_benchmark(environment: dict[str, str]) -> list[dict[str, Any]]:
    """The rows bench.py prints."""
    command = [sys.executable, str(ROOT / "tests" / "gpu" / "bench.py"), "rows"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise FailedError("the benchmark stopped: its own words stand above")
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return rows


def versions() -> dict[str, str]:
    """Of Python and of every package that has one here."""
    found = {"python": sys.version.split()[0]}
    for name in (*OWN.values(), "cupy-cuda12x", "cupy-cuda13x", *CARRIED.values()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit that is checked out, "+" after it where files differ; None where git cannot say."""
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SORA_REF_COMMIT")
    return head + ("+" if changed else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
