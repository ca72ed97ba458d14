"""CuPy: NVIDIA GPUs.  Loading this module finds out whether one can be used, and says why where none can.

The host never waits but in `to_host`.  `from_host` returns at once: CuPy copies through pinned memory of its own, which
it holds until the copy is done, in the order of the stream.  The pool's memory may be bounded by the environment
variable CUPY_GPU_MEMORY_LIMIT, a number of bytes or a share such as 50%.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import array_api_compat.cupy as xp
import cupy as cp
from cupyx.scipy.special import erf

from sora_ref.backends import Array, Backend
from sora_ref.backends.cupy_kernels.device import Device
from sora_ref.backends.cupy_kernels.layers import scatter_add
from sora_ref.backends.cupy_kernels.probe import require_device
from sora_ref.backends.cupy_kernels.table import all_kernels

require_device(cp)

from cupy.cuda.compiler import compile_using_nvrtc  # noqa: E402  the libraries behind these are there now
from cupy.cuda.device import get_cublas_handle  # noqa: E402
from cupy.cuda.function import Module  # noqa: E402
from cupy_backends.cuda.libs import cublas  # noqa: E402


def _compile(code: str, options: tuple[str, ...]) -> Any:
    """The compiled module, for the GPU that is there.

    As CuPy's RawModule, but for the option -ftz=true that CuPy adds: here subnormal numbers stay what they are.
    """
    binary, _ = compile_using_nvrtc(code, options, filename="kernels.cu")
    module = Module()
    module.load(binary)
    return module


DEVICE = Device(
    cp=cp,
    compile=_compile,
    pointer=lambda x: int(x.data.ptr),
    cublas=cublas,
    handle=get_cublas_handle,
)


def _scatter_add(rows: int, ids: Array, updates: Array) -> Array:
    return scatter_add(DEVICE, rows, ids, updates)


def _of_precision(name: str) -> Callable[[Iterable[Array]], dict[str, Callable[..., Any]]]:
    return lambda frozen: all_kernels(DEVICE, name, frozen)


def _memory() -> int:
    return int(cp.get_default_memory_pool().total_bytes())  # the pool gives nothing back, so this is its peak


BACKEND = Backend(
    name="cupy",
    xp=xp,
    from_host=cp.asarray,
    to_host=cp.asnumpy,
    erf=erf,
    scatter_add=_scatter_add,
    shares_memory=cp.may_share_memory,
    kernels=all_kernels(DEVICE),
    precisions={name: _of_precision(name) for name in ("tf32", "bf16", "fp16")},
    synchronous=False,
    memory=_memory,
)
