"""Everything that the CUDA kernels replace, by the field of `ModelOps`."""

from __future__ import annotations

from collections.abc import Iterable

from sora_ref.backends import Array
from sora_ref.kernels.cuda.device import Device
from sora_ref.kernels.cuda.layers import layer_operations
from sora_ref.kernels.cuda.linear import linear_operations
from sora_ref.kernels.cuda.matmul import Matmul
from sora_ref.kernels.cuda.update import update_operations
from sora_ref.models.ops import ModelOperations


def all_operations(device: Device, precision: str = "fp32", frozen: Iterable[Array] = ()) -> ModelOperations:
    """The functions on this device; `precision` and `frozen` are those of `matmul.Matmul`."""
    matmul = Matmul(device, precision, frozen)
    return {**linear_operations(device, matmul), **layer_operations(device, matmul), **update_operations(device)}
