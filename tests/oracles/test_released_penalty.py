"""The released map beside SciPy's minimisers of h(u) = φ(u) + ½(u − x)², whose prox it is off x = ±ξ.

x keeps MARGIN from ±ξ, where the map leaves the prox, and from ±2ξ, where the minimiser jumps; whoever takes a wrong
branch is then MARGIN away at least.  SciPy is asked for XATOL, and a parabola of curvature 1 whose values, at most 16,
are computed within 8u of their size is flat within √(2·2·16·8u) < 2⁻²¹: together less than NEAR.  What h is worth at
the places found is computed over the rationals.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from strategies import exact

from sora_ref import released_threshold, soft_threshold
from sora_ref.backends.exact_backend import Rational
from sora_ref.prox import released_penalty

optimize = pytest.importorskip("scipy.optimize", reason="needs scipy: pip install 'sora_ref[run]'")

MARGIN = Fraction(1, 16)
XATOL, NEAR = 1e-9, 2.0**-20
XIS = [Fraction(1, 2), Fraction(1), Fraction(2)]
REACH = 6  # beyond every x


def points(xi: Fraction) -> list[Fraction]:
    grid = (Fraction(k, 16) for k in range(-80, 81, 3))
    return [x for x in grid if min(abs(abs(x) - xi), abs(abs(x) - 2 * xi)) >= MARGIN]


def at(function: Any, x: Any, xi: Fraction) -> Fraction:
    """function(x, ξ) for one number, over the rationals."""
    value: Fraction = function(exact([x]), Rational(xi))[0]
    return value


def h(u: Any, x: Fraction, xi: Fraction) -> Fraction:
    return at(released_penalty, u, xi) + (Fraction(u) - x) ** 2 / 2


def minimisers(x: Fraction, xi: Fraction) -> list[float]:
    """The lowest place of a grid, and those that bounded searches between its coarser points end at."""

    def value(u: Any) -> float:
        place = np.reshape(np.asarray(u, float), ())  # `brute` gives an array of one
        return float(released_penalty(place, float(xi)) + (place - float(x)) ** 2 / 2)

    whole = (-REACH, REACH)
    searches = (
        optimize.minimize_scalar(value, bounds=bounds, method="bounded", options={"xatol": XATOL})
        for bounds in pairwise(np.linspace(*whole, 2 * REACH + 1).tolist())
    )
    found = [float(optimize.brute(value, (whole,), Ns=8 * REACH + 1, finish=None)), *(float(s.x) for s in searches)]
    return sorted(found, key=value)


@pytest.mark.independent("SORA-PROX-5", "SORA-PROX-6")
@pytest.mark.parametrize("xi", XIS)
def test_released_map_is_where_scipy_finds_the_least_value(xi: Fraction) -> None:
    for x in points(xi):
        found, mapped = minimisers(x, xi), at(released_threshold, x, xi)
        assert abs(found[0] - float(mapped)) <= NEAR, x
        assert all(h(u, x, xi) >= h(mapped, x, xi) for u in found), x


@pytest.mark.independent("SORA-PROX-6")
@pytest.mark.parametrize("xi", XIS)
def test_minimisers_at_two_xi_fill_an_interval(xi: Fraction) -> None:
    for x in (2 * xi, -2 * xi):
        least, sign = h(0, x, xi), 1 if x > 0 else -1
        assert all(h(sign * k * xi / 8, x, xi) == least for k in range(9))
        assert h(-sign * MARGIN, x, xi) > least
        assert h(sign * (xi + MARGIN), x, xi) > least
        found = minimisers(x, xi)
        assert all(h(u, x, xi) >= least for u in found)
        assert -NEAR <= sign * found[0] <= float(xi) + NEAR
        assert sum(-NEAR <= sign * u <= float(xi) + NEAR for u in found) > 1


@pytest.mark.independent("SORA-PROX-6")
@pytest.mark.parametrize("xi", XIS)
def test_control_soft_threshold_is_no_minimiser_between_xi_and_two_xi(xi: Fraction) -> None:
    between = [x for x in points(xi) if xi < abs(x) < 2 * xi]
    assert between
    for x in between:
        soft = at(soft_threshold, x, xi)
        assert h(soft, x, xi) > h(0, x, xi)
        assert abs(minimisers(x, xi)[0] - float(soft)) >= float(MARGIN) - NEAR


@pytest.mark.independent("SORA-PROX-6")
@pytest.mark.parametrize("xi", XIS)
def test_control_isolated_points_are_no_minimisers(xi: Fraction) -> None:
    for x in (xi, -xi):
        kept = at(released_threshold, x, xi)
        assert kept == x
        assert h(kept, x, xi) > h(0, x, xi)
        assert abs(minimisers(x, xi)[0]) <= NEAR
