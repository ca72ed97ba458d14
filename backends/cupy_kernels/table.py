"""All kernels of the CuPy backend, by the field of `ModelOps` they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sora_ref.backends import Array
from sora_ref.backends.cupy_kernels.device import Device
from sora_ref.backends.cupy_kernels.layers import layer_kernels
from sora_ref.backends.cupy_kernels.linear import linear_kernels
from sora_ref.backends.cupy_kernels.matmul import Matmul
from sora_ref.backends.cupy_kernels.update import update_kernels


def all_kernels(device: Device, precision: str = "fp32", frozen: Iterable[Array] = ()) -> dict[str, Callable[..., Any]]:
    """The functions on this device; `precision` and `frozen` are those of `matmul.Matmul`."""
    matmul = Matmul(device, precision, frozen)
    return {**linear_kernels(device, matmul), **layer_kernels(device, matmul), **update_kernels(device)}
