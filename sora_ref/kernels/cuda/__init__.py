"""CUDA kernels, and the layer that launches them on CuPy arrays.

Nothing here imports CuPy: `device.Device` holds what is needed of it, so that tests can put something else there.  The
kernels' text is `kernels.cu`; NVRTC compiles it at first use, once for each dtype.
"""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = 128  # threads of a block
CHUNK = 1024  # elements of a parameter that one block updates

_KERNEL = re.compile(r'extern "C" __global__ void (?P<name>\w+)\(\s*(?P<parameters>[^)]*)\)')


def source() -> str:
    """The CUDA C++ of all kernels; it needs the macros of `options`."""
    return (Path(__file__).parent / "kernels.cu").read_text(encoding="utf-8")


def options(real: str, block: int = BLOCK, chunk: int = CHUNK) -> tuple[str, ...]:
    """The compiler's options for arrays of `real`, "float" or "double".

    No contraction to fused multiply-adds: every operation rounds as the specification's does.
    """
    return ("--fmad=false", f"-DREAL={real}", f"-DBLOCK={block}", f"-DCHUNK={chunk}")


def signatures() -> dict[str, tuple[str, ...]]:
    """The types of every kernel's parameters, by its name: `const REAL*`, `Size`, `double`."""
    found = {}
    for kernel in _KERNEL.finditer(source()):
        parameters = [" ".join(parameter.split()) for parameter in kernel["parameters"].split(",")]
        found[kernel["name"]] = tuple(parameter.rpartition(" ")[0] for parameter in parameters)
    return found
