"""Pruning, and what is left: a plain LoRA, or a plain linear layer (clause SORA-PRUNE).

    I = {i : g_i = 0};   drop rows I of A, columns I of B, entries I of g                     SoRA eq. 12

A component with g_i = 0 contributes exactly nothing, so pruning changes no value, only which products are summed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from array_api_compat import array_namespace, device

from sora_ref import backends
from sora_ref.backends import Array
from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA, require_adapter_shapes
from sora_ref.preconditions import require, require_one_dtype


class LoRA(NamedTuple):
    """A plain low-rank branch: y = x W0ᵀ + b + s·(x Aᵀ) Bᵀ, with A (r, in), B (out, r) and s a number.

    >>> sr.LoRA(A=np.ones((2, 4)), B=np.ones((3, 2)), s=2.0).A.shape
    (2, 4)
    """

    A: Array
    B: Array
    s: Any


class MergedLinear(NamedTuple):
    """A linear layer with its branch merged in.

    W:       (out, in)  W0 + s·B diag(g) A.
    adapter: what was merged, needed to take it out again.
    W0:      the weight from before, where it was kept: unmerging is then bitwise.

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.ones(1), B=np.ones((3, 1)), s=2.0)
    >>> sr.merge(np.zeros((3, 2)), adapter, keep_base=False).W0 is None
    True
    """

    W: Array
    adapter: SoRA
    W0: Array | None


def kept_components(g: Array) -> tuple[int, ...]:
    """The components with g_i ≠ 0, exactly; no tolerance (SORA-PRUNE-1).

    The result decides shapes, so the gate goes to the host here, by name.  Raises SoRAError for one that is not finite.

    >>> sr.kept_components(np.array([0.5, 0.0, -1.0]))
    (0, 2)
    """
    values = backends.to_host(g).tolist()
    bad = [i for i, value in enumerate(values) if value != value or abs(value) == math.inf]
    require(not bad, f"gates {bad} are not finite: expected finite gates")
    return tuple(i for i, value in enumerate(values) if value != 0)


def prune(adapter: SoRA, kept: Sequence[int]) -> SoRA:
    """The adapter with only the components `kept`, in that order; s stays what it was (SORA-PRUNE-2).

    kept: distinct indices below the rank, as `kept_components(adapter.g)` gives them.
    Raises SoRAError for indices that repeat or lie outside.

    >>> adapter = sr.SoRA(A=np.ones((2, 4)), g=np.array([0.0, 0.5]), B=np.ones((3, 2)), s=2.0)
    >>> smaller = sr.prune(adapter, sr.kept_components(adapter.g))
    >>> smaller.A.shape, smaller.g, smaller.s
    ((1, 4), array([0.5]), 2.0)
    """
    require(len(set(kept)) == len(kept), f"components {list(kept)} repeat: expected each once")
    require(all(0 <= i < adapter.rank for i in kept), f"components {list(kept)}: expected indices below {adapter.rank}")
    xp = array_namespace(adapter.g)
    index = xp.asarray(list(kept), dtype=xp.int64, device=device(adapter.g))
    return SoRA(
        A=xp.take(adapter.A, index, axis=0),
        g=xp.take(adapter.g, index, axis=0),
        B=xp.take(adapter.B, index, axis=1),
        s=adapter.s,
    )


def absorb_gate(adapter: SoRA, *, into: Literal["A", "B"] = "B", scale: bool = False) -> LoRA:
    """The plain LoRA of the same map: the gate, with its sign, folded into A's rows or B's columns (SORA-PRUNE-3).

    scale: fold s in as well, leaving a LoRA of scale 1; otherwise the LoRA keeps s.
    Raises SoRAError for another `into`.

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.array([-0.5]), B=np.ones((3, 1)), s=2.0)
    >>> sr.absorb_gate(adapter, into="A").A
    array([[-0.5, -0.5]])
    """
    require(into in ("A", "B"), f"into is {into!r}: expected 'A' or 'B'")
    xp = array_namespace(adapter.g)
    A, g, B, s = adapter
    factor = s * g if scale else g
    if into == "A":
        return LoRA(xp.expand_dims(factor, axis=1) * A, B, 1 if scale else s)
    return LoRA(A, B * factor, 1 if scale else s)


def delta(adapter: SoRA) -> Array:
    """ΔW = s·(B ⊙ g) A, (out, in): what the branch adds to W0 (SORA-PRUNE-4).

    >>> sr.delta(sr.SoRA(A=np.ones((1, 2)), g=np.array([0.5]), B=np.ones((1, 1)), s=2.0))
    array([[1., 1.]])
    """
    return (adapter.s * (adapter.B * adapter.g)) @ adapter.A


def merge(
    W0: Array | MergedLinear,
    adapter: SoRA,
    *,
    name: str = "module",
    dropout: float = 0.0,
    training: bool = False,
    keep_base: bool = True,
    others: Mapping[str, Array] | None = None,
) -> MergedLinear:
    """W0 + ΔW (SORA-PRUNE-4).

    others:    the model's other weights by name; a W0 that shares memory with one of them is refused, for the merge
               would change that layer too.
    keep_base: keep W0, so that `unmerge` is bitwise; otherwise it subtracts ΔW and lands within the rounding bound.
    Raises SoRAError on a second merge, on a tied W0, and in training with dropout p > 0, where the branch is random
    and no single weight equals it.

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.array([0.5]), B=np.ones((1, 1)), s=2.0)
    >>> sr.merge(np.zeros((1, 2)), adapter).W
    array([[1., 1.]])
    """
    if isinstance(W0, MergedLinear):
        raise SoRAError(f"{name} is merged already: expected to be unmerged before it is merged again")
    require(not (training and dropout > 0), f"{name} has dropout {dropout} in training: expected evaluation mode")
    require(W0.ndim == 2, f"{name}: W0 has {W0.ndim} dimensions: expected 2, (out, in)")
    require_adapter_shapes(adapter, *W0.shape)
    require_one_dtype({"W0": W0, "A": adapter.A, "g": adapter.g, "B": adapter.B})
    shares = backends.of(W0).shares_memory
    tied = [other for other, weight in (others or {}).items() if other != name and shares(W0, weight)]
    require(not tied, f"{name} shares its weight with {', '.join(tied)}: expected a weight of its own")
    return MergedLinear(W0 + delta(adapter), adapter, W0 if keep_base else None)


def unmerge(merged: MergedLinear) -> Array:
    """W0 again: the kept one bit for bit, else W − ΔW, within the bound of `bounds.unmerge_bound` (SORA-PRUNE-5).

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.array([0.5]), B=np.ones((1, 1)), s=2.0)
    >>> sr.unmerge(sr.merge(np.zeros((1, 2)), adapter))
    array([[0., 0.]])
    """
    return merged.W - delta(merged.adapter) if merged.W0 is None else merged.W0
