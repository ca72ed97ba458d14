"""Bounds of a merged weight, and of one that is unmerged again (clauses SORA-BOUND-3 and SORA-BOUND-6)."""

from __future__ import annotations

from sora_ref.backends import Array
from sora_ref.bounds.analysis import INFLATION, Path, Underflow, gated, size_of, sizes_of
from sora_ref.bounds.precision import Precision, precision_of
from sora_ref.linear import SoRA
from sora_ref.pruning import delta


def merge_bound(W0: Array, adapter: SoRA, *, precision: Precision | None = None) -> Array:
    """Largest |Ŵ − (W0 + ΔW)| of `merge`, for any association of ΔW; (out, in), float64 (SORA-BOUND-6).

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.array([0.5]), B=np.ones((3, 1)), s=2.0)
    >>> bool(np.all(sr.bounds.merge_bound(np.ones((3, 2)), adapter) < 1e-14))
    True
    """
    precision = precision or precision_of(W0)
    unit, _ = _addition(precision)
    return INFLATION * unit * size_of(W0) + _change(W0, adapter, precision)[1]


def unmerge_bound(W0: Array, adapter: SoRA, *, precision: Precision | None = None) -> Array:
    """Largest |(W0 ⊕ ΔW) ⊖ ΔW − W0| of an unmerge that kept no W0; (out, in), float64 (SORA-BOUND-3).

    Both ΔW are computed alike and cancel, so only the two additions round.  The first is off by δ ≤ u(|W0| + |ΔW|), and
    what the second should give is W0 up to that, so it loses at most u(|W0| + δ).  ΔW is the computed one, which is
    bounded from its factors.  Underflow takes nothing from a sum, unless it is flushed or stored in less.

    >>> adapter = sr.SoRA(A=np.ones((1, 2)), g=np.array([0.5]), B=np.ones((3, 1)), s=2.0)
    >>> bool(np.all(sr.bounds.unmerge_bound(np.ones((3, 2)), adapter) < 1e-14))
    True
    """
    precision = precision or precision_of(W0)
    unit, lost = _addition(precision)
    size, (exact, error) = size_of(W0), _change(W0, adapter, precision)
    first = unit * (size + exact + error) + lost
    return INFLATION * (first + unit * (size + first) + lost)


def _addition(precision: Precision) -> tuple[float, float]:
    """The errors of one addition whose result is stored: relative, and absolute where the result underflows."""
    unit, unit_out = precision.unit, precision.unit_out
    return unit + unit_out + unit * unit_out, precision.spacing + precision.spacing_out


def _change(W0: Array, adapter: SoRA, precision: Precision) -> tuple[Array, Array]:
    """|s|·(|B| ⊙ |g|)|A|, the magnitudes of ΔW's products, and how far the computed ΔW may be from the exact one.

    Its last addition, that of W0, is counted, and refused where it may overflow.
    """
    sizes = sizes_of(adapter)
    carry = Underflow(precision, Path(adapter.rank + 4, 1, 4).relative(precision), adapter)
    carry.require_operands(gated(sizes.B.T, sizes))
    size = delta(sizes)
    carry.require_results(size_of(W0) + size)
    return size, carry.bound(size, carry.chain(sizes.B, gated(sizes.A, sizes)))
