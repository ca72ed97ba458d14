"""Adapters as plain LoRAs, arranged in one of three layouts; all of it in float64, to be rounded once when stored.

compact   each module at its rank r_i and scale s_i
uniform   every module padded with zeros to R = max r_i, at their common scale; where the scales differ, s_i is
multiplied into B_i and the scale is 1
folded    each module at its rank r_i, under one α = R for all, which readers turn into R/r_i: B_i is multiplied by
s_i·r_i/R
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from sora_ref import backends
from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA, require_adapter_shapes
from sora_ref.peft.format import Layout
from sora_ref.preconditions import require, require_one_dtype
from sora_ref.pruning import LoRA, kept_components, prune


class Arranged(NamedTuple):
    """What a layout makes of the adapters.

    loras:         by module, float64: the kept components with the gate in B; those of rank 0 are left out.
    ranks:         components kept, by module, of all.
    placeholder:   the module given a zero of rank 1 because no module kept anything, else None.
    scales_folded: whether B holds the scales, because `uniform` has one and the modules had several.
    """

    loras: dict[str, LoRA]
    ranks: dict[str, int]
    placeholder: str | None
    scales_folded: bool


def arranged(adapters: Mapping[str, SoRA], layout: Layout) -> Arranged:
    """The adapters in a layout; SoRAError, naming the module, where one is not sound."""
    plain = {module: _plain(module, adapter) for module, adapter in adapters.items()}
    ranks = {module: _rank(lora) for module, lora in plain.items()}
    loras = {module: lora for module, lora in plain.items() if ranks[module] > 0}
    placeholder = None if loras else next(iter(plain))
    if placeholder is not None:
        loras = {placeholder: _zero_of_rank_1(plain[placeholder])}
    several = len({lora.s for lora in loras.values()}) > 1
    if layout == "uniform":
        loras = _uniform(loras, fold_scales=several)
    elif layout == "folded":
        loras = _folded(loras)
    return Arranged(loras, ranks, placeholder, layout == "uniform" and several)


def _plain(module: str, adapter: SoRA) -> LoRA:
    """A[kept], B[:, kept] diag(g[kept]) in float64 on the host, and s."""
    A, g, B = (backends.to_host(array) for array in adapter[:3])
    host = SoRA(A, g, B, float(adapter.s))
    try:
        require_adapter_shapes(host, B.shape[0], A.shape[-1])
        require_one_dtype({"A": A, "g": g, "B": B})
        kept = prune(host, kept_components(g))
    except SoRAError as error:
        raise SoRAError(f"{module}: {error}") from error
    for name, matrix in (("A", kept.A), ("B", kept.B)):
        require_exportable(f"{module}: {name}", matrix)
    wide_A, wide_g, wide_B = (part.astype(np.float64) for part in kept[:3])
    with np.errstate(over="ignore"):  # what overflows is refused when it is stored, by name
        return LoRA(wide_A, wide_B * wide_g, host.s)


def require_exportable(name: str, array: np.ndarray) -> None:
    """SoRAError, by name, unless the array holds finite numbers of float32 or float64."""
    require(array.dtype in (np.float32, np.float64), f"{name} has dtype {array.dtype}: expected float32 or float64")
    require(bool(np.isfinite(array).all()), f"{name} is not finite: expected finite numbers")


def _rank(lora: LoRA) -> int:
    return int(lora.A.shape[0])


def _zero_of_rank_1(lora: LoRA) -> LoRA:
    """PEFT refuses rank 0 and an adapter without modules, so where nothing was kept one module says ΔW = 0."""
    A, B, s = lora
    return LoRA(np.zeros((1, A.shape[1])), np.zeros((B.shape[0], 1)), s)


def _uniform(loras: Mapping[str, LoRA], *, fold_scales: bool) -> dict[str, LoRA]:
    """Every A (r_i, in) and B (out, r_i) padded with zeros to (R, in) and (out, R), at one scale."""
    R = max(map(_rank, loras.values()))
    padded = {}
    for module, (A, B, s) in loras.items():
        missing = R - A.shape[0]
        wide_A, wide_B = np.pad(A, ((0, missing), (0, 0))), np.pad(B, ((0, 0), (0, missing)))
        padded[module] = LoRA(wide_A, _times(s, wide_B), 1.0) if fold_scales else LoRA(wide_A, wide_B, s)
    return padded


def _folded(loras: Mapping[str, LoRA]) -> dict[str, LoRA]:
    """B_i times s_i·r_i/R, at the scale R/r_i."""
    R = max(map(_rank, loras.values()))
    return {
        module: LoRA(lora.A, _times(lora.s * _rank(lora) / R, lora.B), R / _rank(lora))
        for module, lora in loras.items()
    }


def _times(factor: float, B: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # refused when it is stored, by name
        return B if factor == 1 else factor * B
