"""The optimiser step of a parameter in one compiled pass, of a gate in two; the operations are the specification's.

They keep its order and nothing is fused, so that every float32 result has the specification's bits.  A Python number is
rounded to float32 once, as NumPy does with it beside a float32 array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sora_ref.backends import Array
from sora_ref.kernels.numba.arrays import FLOAT32, flat
from sora_ref.kernels.numba.compiled import compiled
from sora_ref.kernels.step_numbers import StepNumbers, step_numbers
from sora_ref.ops import Update
from sora_ref.optim import Moments


def update_parameters(updates: Mapping[str, Update], t: int) -> dict[str, tuple[Array, Moments]]:
    """As `ops.update_parameters`: every parameter and its moments after step t.

    The specification makes the step of what is not float32, and the step that is not in numbers.
    """
    found = {}
    for (name, update), own in zip(updates.items(), step_numbers(updates, t).values(), strict=True):
        found[name] = update.step(t) if own is None or update.theta.dtype != FLOAT32 else _step(update, own)
    return found


def _step(update: Update, own: StepNumbers) -> tuple[Array, Moments]:
    """A parameter and its moments after a step in these numbers."""
    theta, grad, moments = update.theta, update.grad, update.moments
    new = np.empty(theta.shape, FLOAT32)
    x = v = new.reshape(-1)
    if own.adam:
        moments = Moments(np.empty(theta.shape, FLOAT32), np.empty(theta.shape, FLOAT32))
        m, v = moments.m.reshape(-1), moments.v.reshape(-1)
        old = flat(theta), flat(grad), flat(update.moments.m), flat(update.moments.v)
        betas = own.beta1, own.one_minus_beta1, own.beta2, own.one_minus_beta2
        _adamw(*old, x, m, v, *betas, own.rate, own.correction, own.eps, own.shrink, own.raw, own.after)
    else:
        _sgd(flat(theta), flat(grad), x, own.rate, own.shrink)
    if own.threshold:
        _threshold(x, v, own.threshold, own.amount, own.metric, own.correction, own.eps, own.raw)
    return new, moments


@compiled
def _sgd(theta: Any, grad: Any, new_theta: Any, rate: float, shrink: float) -> None:
    """θ ← θ − (η·G + ηw·θ), elementwise over (n,); without the last term where ηw is 0."""
    eta, decay = np.float32(rate), np.float32(shrink)
    if shrink == 0:
        for i in range(theta.size):
            new_theta[i] = theta[i] - eta * grad[i]
    else:
        for i in range(theta.size):
            new_theta[i] = theta[i] - (eta * grad[i] + decay * theta[i])


@compiled
def _adamw(
    theta: Any,
    grad: Any,
    m: Any,
    v: Any,
    new_theta: Any,
    new_m: Any,
    new_v: Any,
    beta1: float,
    one_minus_beta1: float,
    beta2: float,
    one_minus_beta2: float,
    rate: float,
    correction: float,
    eps: float,
    shrink: float,
    raw: bool,
    after: bool,
) -> None:
    """One step of AdamW, elementwise over (n,); the numbers are those of `StepNumbers`.

    m ← β₁m + (1 − β₁)G    v ← β₂v + (1 − β₂)G²    step = (η/(1 − β₁ᵗ))·m/C, C as in `_metric`
    θ ← θ − ηwθ − step;    where `after` holds, θ ← θ − step, then θ ← θ − ηwθ
    """
    b1, rest1, b2, rest2 = (
        np.float32(beta1),
        np.float32(one_minus_beta1),
        np.float32(beta2),
        np.float32(one_minus_beta2),
    )
    eta, root, epsilon, decay = np.float32(rate), np.float32(correction), np.float32(eps), np.float32(shrink)
    for i in range(theta.size):
        m_i = b1 * m[i] + rest1 * grad[i]
        v_i = b2 * v[i] + rest2 * (grad[i] * grad[i])
        step = eta * m_i / _metric(v_i, root, epsilon, raw)
        x = theta[i]
        if after:
            x = x - step
            x = x - decay * x
        else:
            x = x - decay * x - step
        new_theta[i], new_m[i], new_v[i] = x, m_i, v_i


@compiled
def _metric(v: Any, correction: Any, eps: Any, raw: bool) -> Any:
    """C = √(v/(1 − β₂ᵗ)) + ε; where ε is on the raw root, (√v + ε)/√(1 − β₂ᵗ), whose last root is the correction."""
    if raw:
        return (np.sqrt(v) + eps) / correction
    return np.sqrt(v / correction) + eps


@compiled
def _threshold(
    x: Any, v: Any, threshold: int, amount: float, metric: int, correction: float, eps: float, raw: bool
) -> None:
    """Cut the gates x (n,) off, in place, each at a: the amount, or amount/C; the choices are those of `StepNumbers`.

    v: the second moments after the step, which C is made of; looked at only where there is a metric.
    """
    whole, root, epsilon, zero = np.float32(amount), np.float32(correction), np.float32(eps), np.float32(0)
    for i in range(x.size):
        a = whole
        if metric != 0:
            a = whole / _metric(v[i], root, epsilon, raw)
            a = zero if metric == 1 and not v[i] > 0 else a
        x[i] = _soft(x[i], a) if threshold == 1 else _released(x[i], a)


@compiled
def _soft(x: Any, a: Any) -> Any:
    """x − clip(x, −a, a): +0 where |x| ≤ a, and NaN where either is."""
    return x - (x if -a <= x <= a else a if x > 0 else -a)


@compiled
def _released(x: Any, a: Any) -> Any:
    """The three lines of the released optimiser, one after the other."""
    if x > a:
        x = x - a
    if x < -a:
        x = x + a
    return np.float32(0) if abs(x) < a else x
