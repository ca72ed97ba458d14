"""What the figures of a benchmark depend on besides the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np  # noqa: F401 (threadpoolctl sees the BLAS that is loaded)
from threadpoolctl import threadpool_info

from sora_ref import kernels
from sora_ref.run.workers import available_cores

_WIDEST_FIRST = ("avx512f", "avx2", "sse4_2")


def machine() -> dict[str, Any]:
    """Processor, instruction set, BLAS and its core type, versions, kernels taken by default, load, commit."""
    blas = [
        {fact: pool.get(fact) for fact in ("internal_api", "version", "architecture", "threading_layer")}
        for pool in threadpool_info()
        if pool.get("user_api") == "blas" and "numpy" in pool.get("filepath", "")
    ]
    return {
        "processor": _cpuinfo().get("model name", platform.processor()),
        "instructions": instructions(),
        "cores": available_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "blas": blas,
        "blas set by the environment": {k: v for k, v in os.environ.items() if k.startswith("OPENBLAS")},
        "versions": {name: _version(name) for name in ("numpy", "numba", "llvmlite", "torch", "transformers", "peft")},
        "kernels": kernels.get("numpy").name,
        "load": load(),
        "commit": _commit(),
    }


def instructions() -> str:
    """The widest set of vector instructions that the processor says it has; empty where it is not asked on Linux."""
    flags = _cpuinfo().get("flags", "").split()
    return next((name for name in _WIDEST_FIRST if name in flags), "")


def sets() -> tuple[str, ...]:
    """The sets of kernels for NumPy's arrays whose libraries are there, the fastest first."""
    found = []
    for name in kernels.names("numpy"):
        with suppress(ImportError):
            found.append(kernels.get("numpy", name).name)
    return tuple(found)


def load() -> list[float]:
    """The system's load averages; none on Windows, which counts no load."""
    if sys.platform == "win32":
        return []
    return list(os.getloadavg())


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the last of its processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
