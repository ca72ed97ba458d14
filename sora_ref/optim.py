"""Gradient steps: SGD and AdamW with decoupled weight decay (clause SORA-OPT).

An optimiser is a value; `update` is pure and takes the learning rate of the step it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from array_api_compat import array_namespace

from sora_ref.backends import Array
from sora_ref.preconditions import require, require_finite_number, require_one_dtype, require_shape


class Moments(NamedTuple):
    """AdamW's running means for one parameter, both of its shape: m of the gradient, v of its square.

    >>> sr.optim.Moments(m=np.zeros(2), v=np.ones(2)).v
    array([1., 1.])
    """

    m: Array
    v: Array


def zero_moments(theta: Array) -> Moments:
    """The moments before the first step.

    >>> sr.zero_moments(np.ones(2))
    Moments(m=array([0., 0.]), v=array([0., 0.]))
    """
    xp = array_namespace(theta)
    return Moments(xp.zeros_like(theta), xp.zeros_like(theta))


@dataclass(frozen=True)
class SGD:
    """θ ← θ − ηwθ − ηG (SORA-OPT-1); exact over the rationals.  It keeps no state: moments pass through untouched.

    >>> theta, grad = np.array([1.0]), np.array([2.0])
    >>> sr.SGD().update(theta, grad, sr.zero_moments(theta), t=1, lr=0.25)[0]
    array([0.5])
    """

    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        require_finite_number("weight_decay", self.weight_decay, least=0)

    def update(
        self, theta: Array, grad: Array, moments: Moments, t: int, lr: float, *, decay: bool = True
    ) -> tuple[Array, Moments]:
        """One step with learning rate `lr`; `decay` says whether this parameter's group is decayed."""
        _check_update(theta, grad, moments, t, lr)
        step = lr * grad
        if decay and self.weight_decay:
            step = step + (lr * self.weight_decay) * theta
        return theta - step, moments

    def metric(self, moments: Moments, t: int) -> None:
        """SGD moves in the Euclidean metric: no diagonal."""
        return None


@dataclass(frozen=True)
class AdamW:
    """Adam with bias correction and decoupled decay (SORA-OPT-2), of step t = 1, 2, …

        m ← β₁m + (1−β₁)G     v ← β₂v + (1−β₂)G²     m̂ = m/(1−β₁ᵗ)     v̂ = v/(1−β₂ᵗ)
        θ ← θ − ηwθ − η·m̂/(√v̂ + ε)

    eps_on:  "corrected" adds ε to √v̂ (Kingma & Ba; torch); "raw" adds it to √v, as transformers' old AdamW did, which
             divides it by √(1−β₂ᵗ) in effect: 31.6 times as large at the first step.
    decays:  "before" takes ηwθ of the value before the step (torch); "after", of the value after it.
    A parameter whose group is not decayed (biases, norms, gates) has w = 0.  With ε = 0, a gradient that has been zero
    since step 1 gives 0/0, NaN.

    >>> theta, grad = np.array([1.0]), np.array([3.0])
    >>> theta, moments = sr.AdamW().update(theta, grad, sr.zero_moments(theta), t=1, lr=0.25)
    >>> round(float(theta[0]), 6)
    0.75
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    eps_on: Literal["corrected", "raw"] = "corrected"
    decays: Literal["before", "after"] = "before"

    def __post_init__(self) -> None:
        require(all(0 <= beta < 1 for beta in self.betas), f"betas are {self.betas}: expected 0 <= beta < 1")
        require_finite_number("eps", self.eps, least=0)
        require_finite_number("weight_decay", self.weight_decay, least=0)

    def update(
        self, theta: Array, grad: Array, moments: Moments, t: int, lr: float, *, decay: bool = True
    ) -> tuple[Array, Moments]:
        """Step t (1-based) with learning rate `lr`; `decay` says whether this parameter's group is decayed."""
        _check_update(theta, grad, moments, t, lr)
        beta1, beta2 = self.betas
        moments = Moments(
            m=beta1 * moments.m + (1 - beta1) * grad,
            v=beta2 * moments.v + (1 - beta2) * (grad * grad),
        )
        step = (lr / (1 - beta1**t)) * moments.m / self.metric(moments, t)
        shrink = lr * self.weight_decay if decay else 0.0
        if self.decays == "before":
            return theta - shrink * theta - step, moments
        theta = theta - step
        return theta - shrink * theta, moments

    def metric(self, moments: Moments, t: int) -> Array:
        """The diagonal C = √v̂ + ε of the metric step t moves in: the step is −η·m̂/C (SORA-OPT-3)."""
        xp = array_namespace(moments.v)
        correction = 1 - self.betas[1] ** t
        if self.eps_on == "raw":
            return (xp.sqrt(moments.v) + self.eps) / correction**0.5
        return xp.sqrt(moments.v / correction) + self.eps


Optimiser = SGD | AdamW
"""What `Recipe` takes for all parameters but the gates, and `GateRule` for the gates.

>>> isinstance(sr.AdamW(), sr.Optimiser)
True
"""


def _check_update(theta: Array, grad: Array, moments: Moments, t: int, lr: float) -> None:
    require_shape("gradient", grad, theta.shape)
    require_one_dtype({"parameter": theta, "gradient": grad, "m": moments.m, "v": moments.v})
    require(t >= 1, f"step t is {t}: expected 1 or more")
    require_finite_number("learning rate", lr, least=0)
