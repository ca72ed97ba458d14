"""The set "cuda", on CuPy; importing this module loads CuPy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import cupy as cp
from cupy.cuda.compiler import compile_using_nvrtc
from cupy.cuda.device import get_cublas_handle
from cupy.cuda.function import Module
from cupy_backends.cuda.libs import cublas

from sora_ref.backends import Array
from sora_ref.kernels import Kernels
from sora_ref.kernels.cuda.device import Device
from sora_ref.kernels.cuda.operations import all_operations
from sora_ref.models.ops import ModelOperations


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


def _of_precision(name: str) -> Callable[[Iterable[Array]], ModelOperations]:
    return lambda frozen: all_operations(DEVICE, name, frozen)


KERNELS = Kernels(
    name="cuda",
    training=all_operations(DEVICE),
    precisions={name: _of_precision(name) for name in ("tf32", "bf16", "fp16")},
)
