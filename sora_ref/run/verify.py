"""Does pruning change the model?  Per module against the derived bound; as a whole against float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from array_api_compat import array_namespace
from msgspec.structs import replace as replace_fields

from sora_ref import sora_linear_forward
from sora_ref.backends import Array
from sora_ref.bounds import linear_bound
from sora_ref.models import classifier_forward
from sora_ref.run.evaluate import predict_logits
from sora_ref.run.setup import Params, Setup
from sora_ref.run.ship import merged_params, pruned_params
from sora_ref.run.text import Encoded, pad


class ModuleAgreement(NamedTuple):
    """One module on the inputs it really sees.

    r, kept:        its rank before and after pruning.
    pruned, merged: the largest |y_pruned − y| and |y_merged − y|.
    worst_pruned, worst_merged: the largest of these over the bound that holds at that entry; at most 1 is agreement.
    """

    module: str
    r: int
    kept: int
    pruned: float
    merged: float
    worst_pruned: float
    worst_merged: float


class ModelAgreement(NamedTuple):
    """Logits of the whole model, largest distances; a measurement, not a bound.

    pruned, merged: to the unpruned model, all in the working dtype.
    unpruned_64, pruned_64, merged_64: of each to the unpruned network evaluated in float64.
    """

    pruned: float
    merged: float
    unpruned_64: float
    pruned_64: float
    merged_64: float


def module_agreement(setup: Setup, params: Params, encoded: Encoded) -> list[ModuleAgreement]:
    """Every adapted module on the inputs it gets from `encoded` as one batch (SORA-BOUND-2).

    Two evaluations of the same exact value, each within the bound, differ by at most twice the bound.
    """
    smaller = pruned_params(setup, params)
    merged, _ = merged_params(setup, params)
    batch = pad(encoded, np.arange(len(encoded.ids)), setup.backend)
    all_params = setup.all_params(params)
    _, cache = classifier_forward(setup.model, all_params, batch, scales=setup.scales, ops=setup.ops)
    inputs = cache.model.linear_inputs()
    adapters, pruned = setup.adapters(params), setup.adapters(smaller)

    rows = []
    for module, adapter in adapters.items():
        x, W0, b = inputs[module], all_params[f"{module}.weight"], all_params[f"{module}.bias"]
        y, _ = sora_linear_forward(x, W0, b, adapter)
        y_pruned, _ = sora_linear_forward(x, W0, b, pruned[module])
        y_merged, _ = sora_linear_forward(x, merged[f"{module}.weight"], b, None)
        allowed = 2 * linear_bound(x, W0, b, adapter)
        (d_pruned, w_pruned), (d_merged, w_merged) = (
            _distance(setup, other, y, allowed) for other in (y_pruned, y_merged)
        )
        rows.append(ModuleAgreement(module, adapter.rank, pruned[module].rank, d_pruned, d_merged, w_pruned, w_merged))
    return rows


def model_agreement(setup: Setup, params: Params, encoded: Encoded) -> ModelAgreement:
    """The whole model on `encoded`, unpruned, pruned and merged, beside the unpruned network in float64."""
    base, left = merged_params(setup, params)
    plain = predict_logits(setup, params, encoded)
    pruned = predict_logits(setup, pruned_params(setup, params), encoded)
    merged = predict_logits(replace(setup, frozen=base, scales={}), left, encoded)
    exact = predict_logits(*in_float64(setup, params), encoded)

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.max(np.abs(a - b), initial=0.0))

    return ModelAgreement(
        pruned=apart(pruned, plain),
        merged=apart(merged, plain),
        unpruned_64=apart(plain, exact),
        pruned_64=apart(pruned, exact),
        merged_64=apart(merged, exact),
    )


def in_float64(setup: Setup, params: Params) -> tuple[Setup, dict[str, Array]]:
    """The same weights in float64, with the specification's own operations."""

    def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: array_namespace(x).astype(x, array_namespace(x).float64) for name, x in arrays.items()}

    config = replace_fields(setup.config, dtype="float64", kernels="reference", precision=None)
    spec = replace(setup, config=config, frozen=wide(setup.frozen))
    return spec, wide(params)


def _distance(setup: Setup, other: Array, y: Array, allowed: Array) -> tuple[float, float]:
    """Largest |other − y|, and largest ratio of it to what is allowed; 0/0 counts as 0."""
    xp = array_namespace(y)
    apart = xp.abs(xp.astype(other, xp.float64) - xp.astype(y, xp.float64))
    ratio = xp.where(apart == 0, xp.zeros_like(apart), apart / xp.where(apart == 0, xp.ones_like(allowed), allowed))
    to_host = setup.backend.to_host
    return float(to_host(xp.max(apart))), float(to_host(xp.max(ratio)))
