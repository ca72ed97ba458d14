"""SORA-PROX: the threshold map, its laws, and the objective it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.bounds import gamma
from sora_ref.conformance.checks.examples import array, whole
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.judge import agree, exactly, number
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.layer import Floats
from sora_ref.prox import l1_value, prox_kkt_distance, released_threshold, soft_threshold

POINTS = (1.0, 2.0, -1.0, 0.25, 0.5, -0.5, 0.75, -2.0, 3.0, 0.0, -0.25, 1.5, -0.75, 0.375)
THRESHOLDS = (0.5, 1.0, 0.25, 0.0)


def released(choices: Choices) -> str | None:
    """How the declared map differs from T, or None."""
    if choices.threshold == "released":
        return "the declared threshold is the released code's map, with the dead zone 2ξ (SORA-PROX-5)"
    return None


def points(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    """Points on both sides of a threshold, and on it."""
    v = array((3,), subject.dtype, st.sampled_from(POINTS))
    return st.fixed_dictionaries({"v": v, "xi": st.sampled_from(THRESHOLDS)})


def all_points(subject: Subject) -> list[dict[str, Any]]:
    """Every point at every threshold."""
    return [{"v": np.array(POINTS, subject.dtype), "xi": xi} for xi in THRESHOLDS]


@check(
    "SORA-PROX-1",
    "the soft threshold",
    formula="T_ξ(v) = v − clip(v, −ξ, ξ)",
    source="SoRA eq. 11",
    function=soft_threshold,
    requires="prox",
    level="core",
    examples=points,
    always=all_points,
    deviation=released,
)
def soft(subject: Subject, v: Floats, xi: float) -> None:
    """The declared map at dyadic points, where it is exact; one rounding is granted."""
    declared = released_threshold if subject.choices.threshold == "released" else soft_threshold
    got = subject.prox(v, xi)
    exact = declared(exactly(v), number(xi))
    if subject.has["prox"] != "prox" and subject.choices.threshold == "released":
        exact = np.where(np.abs(v) == xi, exactly(got), exact)  # a whole step may land beside the isolated points
    unit = subject.precision.unit + subject.precision.unit_out
    bound = 4 * unit * (np.abs(v) + xi)
    guesses = {
        "the released code's three lines, whose dead zone is 2ξ": released_threshold(v, xi),
        "the soft threshold": soft_threshold(v, xi),
        "a hard threshold, which keeps what is above ξ as it is": np.where(np.abs(v) > xi, v, 0),
        "a hard threshold, which keeps what is not below ξ as it is": np.where(np.abs(v) >= xi, v, 0),
        "the released code's map without its isolated points": np.where(np.abs(v) >= 2 * xi, v - xi * np.sign(v), 0),
        "a subgradient step v − ξ·sgn(v), which crosses zero": v - xi * np.sign(v),
        "relu: negative gates are cut to zero": np.maximum(v - xi, 0),
        "clip(v, −ξ, ξ), the part that is to be taken off": np.clip(v, -xi, xi),
        "|T(v)|: the sign is lost": np.maximum(np.abs(v) - xi, 0),
        "T with ξ/2": soft_threshold(v, xi / 2),
        "T with 2ξ": soft_threshold(v, 2 * xi),
        "v as it was": v,
        "the ridge map v/(1 + ξ)": v / (1 + xi),
    }
    agree("T(v)", got, exact, bound, subject.precision, lambda: guesses)


@check(
    "SORA-PROX-1.zero",
    "exact zeros inside the threshold, and only there",
    formula="T_ξ(v) = 0 ⇔ |v| ≤ ξ",
    source="SoRA eq. 11",
    function=soft_threshold,
    requires="prox",
    level="core",
    examples=lambda subject: st.fixed_dictionaries({"key": whole(0, 2**16), "xi": st.sampled_from((0.1, 1 / 3, 1e-3))}),
    deviation=released,
)
def zeros(subject: Subject, key: int, xi: float) -> None:
    """Points with full mantissas on both sides, away from the threshold by more than its rounding."""
    rng = np.random.default_rng(key)
    v = (xi * np.concatenate([rng.uniform(-0.99, 0.99, 8), rng.uniform(1.01, 1.9, 8), -rng.uniform(2.1, 9, 8)])).astype(
        subject.dtype
    )
    step = 4 * (subject.precision.unit + subject.precision.unit_out)  # of xi itself, of v, and of one operation
    v = np.concatenate([v, xi * np.array([1 - step, 1 + step, -1 + step, -1 - step])]).astype(subject.dtype)
    got = subject.prox(v, xi)
    reach = 2 if subject.choices.threshold == "released" else 1
    inside = np.abs(v.astype(float)) < reach * xi
    if (got[inside] != 0).any():
        k = int(np.argwhere(inside & (got != 0))[0, 0])
        raise Refusal(f"T({float(v[k])!r}) is {float(got[k])!r} at ξ = {xi}: expected exactly 0", quantity="T(v)")
    if (got[~inside] == 0).any():
        k = int(np.argwhere(~inside & (got == 0))[0, 0])
        raise Refusal(
            f"T({float(v[k])!r}) is 0 at ξ = {xi}: expected {float(v[k]) - np.sign(v[k]) * xi:.6g}", quantity="T(v)"
        )


@check(
    "SORA-PROX-1.special",
    "NaN stays NaN, and infinities stay",
    formula="T_ξ(NaN) = NaN, T_ξ(±∞) = ±∞",
    source="derived: v − clip(v, −ξ, ξ)",
    function=soft_threshold,
    requires="prox",
)
def special(subject: Subject) -> None:
    """A NaN that turns into 0 would be pruned, and never be seen."""
    v = np.array([np.nan, np.inf, -np.inf, 1.0], subject.dtype)
    with np.errstate(invalid="ignore"):
        got = subject.prox(v, 0.5)
    if not np.isnan(got[0]):
        raise Refusal(
            f"T(NaN) is {float(got[0])!r}: expected NaN",
            guesses=("where(|v| > ξ, …, 0), which is false for NaN",),
        )
    if subject.has["prox"] == "prox" and list(got[1:3]) != [np.inf, -np.inf]:  # a step may form 0·∞ on its way
        raise Refusal(f"T(±∞) is {got[1:3].tolist()}: expected ±∞")


@check(
    "SORA-PROX-2",
    "odd, monotone and non-expansive",
    formula="T(−v) = −T(v);  u ≤ v ⇒ 0 ≤ T(v) − T(u) ≤ v − u",
    source="SoRA eq. 13; Moreau 1965",
    function=soft_threshold,
    requires="prox",
    level="core",
    examples=points,
    always=all_points,
    deviation=released,
)
def laws(subject: Subject, v: Floats, xi: float) -> None:
    """On dyadic numbers, where differences are exact."""
    v = np.sort(v)
    up, down = subject.prox(v, xi), subject.prox(-v, xi)
    slack = 8 * (subject.precision.unit + subject.precision.unit_out) * (np.abs(v).max(initial=0) + xi)
    if subject.choices.threshold == "released":
        return  # its map is checked above; these are laws of a prox, which it is not
    if (np.abs(up + down) > slack).any():
        raise Refusal(f"T(v) is {up.tolist()} and T(−v) {down.tolist()}: expected opposite signs")
    gaps = np.diff(up)
    if (gaps < -slack).any() or (gaps > np.diff(v) + slack).any():
        raise Refusal(f"T of {v.tolist()} is {up.tolist()}: expected it to rise, and by no more than v does")


@check(
    "SORA-PROX-3",
    "the optimality condition",
    formula="v − T_ξ(v) ∈ ξ ∂‖T_ξ(v)‖₁",
    source="SoRA eq. 13; Moreau 1965",
    function=prox_kkt_distance,
    requires="prox",
    level="core",
    examples=points,
    always=all_points,
    deviation=released,
)
def optimality(subject: Subject, v: Floats, xi: float) -> None:
    """ξ·sgn(u) where u ≠ 0, anything of size ξ at most where u = 0."""
    if subject.choices.threshold == "released":
        return
    u = subject.prox(v, xi)
    slack = 8 * (subject.precision.unit + subject.precision.unit_out) * (np.abs(v) + xi)
    off = np.where(u == 0, np.maximum(np.abs(v) - xi, 0), np.abs(v - u - xi * np.sign(u)))
    if (off > slack).any():
        k = int(np.argmax(off))
        raise Refusal(
            f"T({float(v[k])!r}) is {float(u[k])!r} at ξ = {xi}: {float(off[k]):.3g} away from optimal", quantity="T(v)"
        )


@check(
    "SORA-PROX-4",
    "the penalty is a sum over all modules",
    formula="λ Σₖ ‖g⁽ᵏ⁾‖₁",
    source="SoRA eq. 14",
    function=l1_value,
    requires="penalty",
    examples=lambda subject: st.fixed_dictionaries(
        {
            "gates": st.lists(whole(0, 3), max_size=3).flatmap(
                lambda sizes: st.tuples(*(array((n,), subject.dtype, st.sampled_from(POINTS)) for n in sizes))
            ),
            "lam": st.sampled_from((1.0, 0.5, 0.25)),
        }
    ),
)
def penalty(subject: Subject, gates: tuple[Floats, ...], lam: float) -> None:
    """A sum, not a mean, over all modules; modules without gates are among them."""
    got = np.asarray(subject.penalty(gates, lam))
    exact = np.asarray(l1_value([exactly(g) for g in gates], number(lam)), object)
    total, count = sum(float(np.abs(g).sum()) for g in gates), max(sum(g.size for g in gates), 1)
    guesses = {
        "the mean over the gates": lam * total / count,
        "the mean over the modules": lam * total / max(len(gates), 1),
        "the sum without absolute values": lam * sum(float(g.sum()) for g in gates),
        "the sum of squares": lam * sum(float((g * g).sum()) for g in gates),
        "the number of open gates": lam * sum(float((g != 0).sum()) for g in gates),
        "the sum without λ": total,
    }
    bound = gamma(count + 2, subject.precision.unit) * lam * total
    agree("penalty", got, exact, bound, subject.precision, lambda: guesses)


CHECKS = (soft, zeros, special, laws, optimality, penalty)
