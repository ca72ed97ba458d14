"""The optimiser step of all parameters in one launch; their gradients gathered in one, and clipped in two.

A launch gets a table with one line for each parameter: pointers, sizes and the step's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.gradients import Params
from sora_ref.kernels.cuda.device import REALS, Device
from sora_ref.kernels.step_numbers import StepNumbers, step_numbers
from sora_ref.ops import Operations, Update
from sora_ref.optim import Moments

# The structs of kernels.cu, field by field.
_POINTERS = ("theta", "grad", "m", "v", "new_theta", "new_m", "new_v")
_NUMBERS = ("beta1", "one_minus_beta1", "beta2", "one_minus_beta2", "rate", "correction", "eps", "shrink", "amount")
_CHOICES = ("adam", "raw", "after", "threshold", "metric")
UPDATE = np.dtype(
    [(name, "<i8") for name in ("first", "size", *_POINTERS)]
    + [(name, "<f8") for name in _NUMBERS]
    + [(name, "<i8") for name in _CHOICES]
)
ALIGNED = 64  # elements: 256 bytes of float32, as an allocation of its own would have
COMBINED = np.dtype([(name, "<i8") for name in ("first", "size", "mean")])
GRADIENT = np.dtype([(name, "<i8") for name in ("first", "size", "grad", "clipped")])


def update_operations(device: Device) -> Operations:
    """The functions by the field of `Ops` they replace."""
    cp, pointer = device.cp, device.pointer

    def update_parameters(updates: Mapping[str, Update], t: int) -> dict[str, tuple[Array, Moments]]:
        """Every parameter and its moments after step t; the specification makes the step that is not in numbers."""
        given = step_numbers(updates, t)
        found = {name: update.step(t) for name, update in updates.items() if given[name] is None}
        numbers = {name: own for name, own in given.items() if own is not None}
        for dtype in REALS:
            of_dtype = {name: updates[name] for name in numbers if updates[name].theta.dtype == dtype}
            found |= together(of_dtype, numbers, dtype)
        return {name: found[name] for name in updates}

    def together(
        updates: Mapping[str, Update], numbers: Mapping[str, StepNumbers], dtype: np.dtype[Any]
    ) -> dict[str, tuple[Array, Moments]]:
        """The same for parameters of one dtype, in one launch."""
        table, blocks = _table(UPDATE, [update.theta.size for update in updates.values()], device.chunk)
        old = [[device.contiguous(x) for x in (u.theta, u.grad, *u.moments)] for u in updates.values()]
        new = list(zip(*(_like(device, [u.theta for u in updates.values()], dtype) for _ in range(3)), strict=True))
        lines = [[pointer(x) for x in (*given, *made)] for given, made in zip(old, new, strict=True)]
        for field, addresses in zip(_POINTERS, zip(*lines, strict=True), strict=bool(lines)):
            table[field] = addresses
        for field in _NUMBERS + _CHOICES:
            table[field] = [getattr(numbers[name], field) for name in updates]
        device.launch("update_parameters", dtype, (blocks,), _sent(device, table), len(table))
        return {
            name: (theta, Moments(m, v) if numbers[name].adam else update.moments)
            for (name, update), (theta, m, v) in zip(updates.items(), new, strict=True)
        }

    def combine_microbatches(summed: Sequence[Params], examples: int) -> dict[str, Array]:
        """(Σ over microbatches, in the order given)/examples; one dtype for all.

        Raises ValueError where names or shapes differ, or there is nothing to divide.
        """
        alike = all(
            [(k, x.shape) for k, x in sorted(p.items())] == [(k, x.shape) for k, x in sorted(summed[0].items())]
            for p in summed[1:]
        )
        if not summed or examples < 1 or not alike:
            raise ValueError(f"{len(summed)} microbatches, {examples} examples: expected some, with the same gradients")
        (dtype,) = {np.dtype(x.dtype) for part in summed for x in part.values()}
        given = [[device.contiguous(part[name]) for part in summed] for name in summed[0]]
        table, blocks = _table(COMBINED, [parts[0].size for parts in given], device.chunk)
        means = _like(device, list(summed[0].values()), dtype)
        table["mean"] = [pointer(x) for x in means]
        addresses = cp.asarray(np.array([[pointer(x) for x in parts] for parts in given], np.int64))
        lines = _sent(device, table)
        device.launch("combine", dtype, (blocks,), lines, len(table), addresses, len(summed), float(examples))
        return dict(zip(summed[0], means, strict=True))

    def clip_by_global_norm(grads: Params, limit: float, eps: float = 0.0) -> tuple[dict[str, Array], Array]:
        """Gradients times min(1, limit/(norm + eps)), and the norm, 0-d float64 on the device; one dtype for all."""
        if not 0 < limit < math.inf:
            raise ValueError(f"clip is {limit}: expected a finite number above 0")
        (dtype,) = {np.dtype(grad.dtype) for grad in grads.values()}
        given = [device.contiguous(grad) for grad in grads.values()]
        table, blocks = _table(GRADIENT, [grad.size for grad in given], device.chunk)
        clipped = _like(device, list(grads.values()), dtype)
        table["grad"], table["clipped"] = ([pointer(x) for x in arrays] for arrays in (given, clipped))
        lines, norm, partial = _sent(device, table), cp.zeros((), cp.float64), cp.empty((blocks,), cp.float64)
        device.launch("squares", dtype, (blocks,), lines, len(table), partial)
        device.launch("clip", dtype, (blocks,), lines, len(table), partial, float(limit), float(eps), norm)
        return dict(zip(grads, clipped, strict=True)), norm

    return {
        "update_parameters": update_parameters,
        "combine_microbatches": combine_microbatches,
        "clip_by_global_norm": clip_by_global_norm,
    }


def _table(fields: np.dtype[Any], sizes: Iterable[int], chunk: int) -> tuple[np.ndarray, int]:
    """A table with `first` and `size` filled in, and the blocks of all its lines."""
    sizes = list(sizes)
    table, blocks = np.zeros(len(sizes), fields), [-(-size // chunk) for size in sizes]
    table["size"] = sizes
    table["first"] = np.cumsum([0, *blocks])[:-1]
    return table, sum(blocks)


def _sent(device: Device, table: np.ndarray) -> Array:
    """The table's bytes on the device: CuPy copies them through pinned memory of its own and does not wait."""
    return device.cp.asarray(table.view(np.uint8))


def _like(device: Device, arrays: list[Array], dtype: np.dtype[Any]) -> list[Array]:
    """A new array of the shape of each, all cut from one allocation, each at a multiple of ALIGNED elements."""
    begins = np.cumsum([0, *(-(-x.size // ALIGNED) * ALIGNED for x in arrays)]).tolist()
    whole = device.cp.empty((begins[-1],), dtype)
    return [whole[begin : begin + x.size].reshape(x.shape) for begin, x in zip(begins, arrays, strict=False)]
