"""The comparison of a result with the exact value, within the rounding bound of the declared arithmetic.

The specification's own functions give the exact value, over the rationals; `sora_ref.bounds` gives the bound.  Nobody
chooses a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from sora_ref import SoRA, delta
from sora_ref.backends import get
from sora_ref.bounds import Precision, linear_backward_bound, linear_bound, merge_bound
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.protocol.layer import Floats, Layer
from sora_ref.linear import sora_linear_backward, sora_linear_forward

Exact = Any  # object array of rationals
# Makes, by a description in words, the values that typical mistakes would give; called only for a wrong result.
Guesses = Callable[[], Mapping[str, Any]]

exactly = get("exact").from_host


def number(value: float) -> Any:
    """A Python number as a rational of the exact backend."""
    return exactly(np.array([value], object if isinstance(value, Fraction | int) else float))[0]


def exact_layer(layer: Layer) -> tuple[Exact, Exact | None, SoRA]:
    """W0, b and the branch over the rationals."""
    branch = layer.adapter
    b = None if layer.b is None else exactly(layer.b)
    return exactly(layer.W0), b, SoRA(exactly(branch.A), exactly(branch.g), exactly(branch.B), number(branch.s))


def sites(layer: Layer) -> list[Layer]:
    """The layers that share this one's triple: itself, unless W0 has a leading axis of sites."""
    if layer.W0.ndim == 2:
        return [layer]
    biases = [None] * len(layer.W0) if layer.b is None else list(layer.b)
    return [layer._replace(W0=W0, b=b) for W0, b in zip(layer.W0, biases, strict=True)]


def exact_forward(layer: Layer, x: Floats) -> Exact:
    """The y of this layer, exactly."""
    if layer.W0.ndim == 3:
        return np.stack([exact_forward(site, x[k]) for k, site in enumerate(sites(layer))])
    y, _ = sora_linear_forward(exactly(x), *exact_layer(layer))
    return y


def exact_gradients(layer: Layer, x: Floats, dy: Floats) -> dict[str, Exact]:
    """dx, dA, dg and dB, exactly."""
    if layer.W0.ndim == 3:
        parts = [exact_gradients(site, x[k], dy[k]) for k, site in enumerate(sites(layer))]
        summed = {name: sum(part[name] for part in parts) for name in ("dA", "dg", "dB")}
        return {"dx": np.stack([part["dx"] for part in parts]), **summed}
    _, cache = sora_linear_forward(exactly(x), *exact_layer(layer))
    grads = sora_linear_backward(exactly(dy), cache)
    return {name: getattr(grads, name) for name in ("dx", "dA", "dg", "dB")}


def exact_merged(layer: Layer) -> Exact:
    """W0 + s·B diag(g) A, exactly."""
    W0, _, branch = exact_layer(layer)
    return W0 + delta(branch)


def forward_bound(layer: Layer, x: Floats, precision: Precision) -> Floats:
    """The rounding bound of y, in any form of the layer."""
    if layer.W0.ndim == 3:
        return np.stack([forward_bound(site, x[k], precision) for k, site in enumerate(sites(layer))])
    bound: Floats = linear_bound(x, layer.W0, layer.b, layer.adapter, precision=precision)
    return bound


def gradient_bounds(layer: Layer, x: Floats, dy: Floats, precision: Precision) -> dict[str, Floats]:
    """The rounding bound of each gradient."""
    if layer.W0.ndim == 3:
        return _summed_bounds(layer, x, dy, precision)
    bounds = linear_backward_bound(dy, x, layer.W0, layer.adapter, precision=precision)
    return {name: getattr(bounds, name) for name in ("dx", "dA", "dg", "dB")}


def _summed_bounds(layer: Layer, x: Floats, dy: Floats, precision: Precision) -> dict[str, Floats]:
    """The bounds of sums over the sites: the sum of the terms' bounds, and one rounding for every addition."""
    parts = [gradient_bounds(site, x[k], dy[k], precision) for k, site in enumerate(sites(layer))]
    found = {"dx": np.stack([part["dx"] for part in parts])}
    exact = [exact_gradients(site, x[k], dy[k]) for k, site in enumerate(sites(layer))]
    for name in ("dA", "dg", "dB"):
        sizes = sum(np.abs(one[name].astype(float)) + part[name] for one, part in zip(exact, parts, strict=True))
        unit = 2 * len(parts) * (precision.unit + precision.unit_out)
        found[name] = sum(part[name] for part in parts) + unit * sizes + len(parts) * precision.spacing
    return found


def weight_bound(layer: Layer, precision: Precision) -> Floats:
    """The rounding bound of a merged weight."""
    if layer.W0.ndim == 3:
        return np.stack([weight_bound(site, precision) for site in sites(layer)])
    bound: Floats = merge_bound(layer.W0, layer.adapter, precision=precision)
    return bound


def agree(
    quantity: str,
    got: Floats,
    exact: Exact,
    bound: Floats | float,
    precision: Precision,
    guesses: Guesses | None = None,
) -> None:
    """Refusal unless |got − exact| ≤ bound in every entry; it names the worst, and what the result equals instead."""
    exact = np.asarray(exact, object)
    limit = np.broadcast_to(np.asarray(bound, float), exact.shape)
    worst, place = Fraction(0), None
    for index in np.ndindex(exact.shape):
        value = got[index]
        if not np.isfinite(value):
            raise _refused(quantity, index, value, exact[index], limit[index], precision, ())
        excess = abs(Fraction(value.item()) - Fraction(exact[index])) - Fraction(float(limit[index]))
        if excess > worst:
            worst, place = excess, index
    if place is not None:
        likely = _recognised(got, exact, limit, guesses) if guesses else ()
        raise _refused(quantity, place, got[place], exact[place], limit[place], precision, likely)


def _refused(
    quantity: str,
    place: tuple[int, ...],
    got: Any,
    exact: Any,
    bound: Any,
    precision: Precision,
    likely: tuple[str, ...],
) -> Refusal:
    entry = f"{quantity}[{', '.join(map(str, place))}]" if place else quantity
    value, found, limit = float(exact), float(got), float(bound)
    off = f"off by {abs(found - value):.3g}, where {precision.name} may be off by {limit:.2g}"
    return Refusal(
        f"{entry} is {found!r}: expected {value!r} ({off})",
        quantity=quantity,
        expected=value,
        got=found,
        bound=limit,
        guesses=likely,
    )


def _recognised(got: Floats, exact: Exact, bound: Floats, guesses: Guesses) -> tuple[str, ...]:
    """The guesses that the result agrees with in every entry, though they differ from what is expected."""
    names = []
    for name, value in guesses().items():
        guess = np.asarray(value, float)
        if guess.shape != got.shape:
            continue
        near = 4 * np.abs(bound)
        differs = np.abs(guess - exact.astype(float)) > near
        if differs.any() and (np.abs(got - guess) <= near).all():
            names.append(name)
    return tuple(names)
