"""Dropout: on the branch's input alone, with one mask for the forward and its backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.conformance.checks.examples import array, whole
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.judge import agree, exactly, gradient_bounds
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.layer import Floats, Layer
from sora_ref.linear import sora_linear_backward, sora_linear_forward


def one_mask(subject: Subject) -> str | None:
    """Why a mask cannot be read off the output."""
    layout = subject.implementation.layout
    if layout.groups > 1 or layout.sites > 1:
        return "a layer with several slices or sites shows no single mask"
    return None


@check(
    "SORA-LINEAR-1.dropout",
    "dropout on the branch's input alone",
    formula="y = x W0ᵀ + b + s·((drop(x) Aᵀ) ⊙ g) Bᵀ, drop(x) = keep ⊙ x/(1 − p)",
    source="released code",
    function=sora_linear_forward,
    requires="training_forward",
    examples=lambda subject: st.fixed_dictionaries({"p": st.sampled_from((0.5, 0.75)), "seed": whole(0, 2**16)}),
    applies=one_mask,
)
def dropout(subject: Subject, p: float, seed: int) -> None:
    """The branch's three components read the first input, the second, and their sum; B gives each an output of its own.

    So the branch shows the mask twice: the third output is the sum of the other two only if the mask acts on x.
    """
    make = partial(np.array, dtype=subject.dtype)
    W0, b = make([[0, 0], [0, 0], [0, 0], [1, 0]]), make([0, 0, 0, 2]) if subject.implementation.biased else None
    if subject.implementation.gated:
        A, g, s = make([[1, 0], [0, -1], [1, 1]]), make([0.5, -0.5, 0.5]), 2.0
    else:
        A, g, s = make([[0.5, 0], [0, 0.5], [0.5, 0.5]]), make([1, 1, 1]), 2.0
    layer = Layer(W0, b, A, g, make(np.eye(4, 3)), s)
    x = np.ones((1024, 2), subject.dtype)
    y = subject.training_forward(layer, x, p, seed)
    if not np.array_equal(y, subject.training_forward(layer, x, p, seed)):
        raise Refusal("two masks from one seed differ: expected equal masks")
    if not (y[:, 3] == (1 if b is None else 3)).all():
        raise Refusal("the frozen path is not x W0ᵀ + b: expected dropout on the branch's input alone", quantity="y")
    if np.array_equal(y, subject.training_forward(layer, x, p, seed + 1)):
        raise Refusal(
            "two seeds give one mask: expected a draw of its own for every step",
            guesses=("a generator that is seeded anew with the same number",),
        )
    dropped = y[:, :2]
    values = sorted({float(value) for value in dropped.ravel()})
    if not set(values) <= {0.0, 1 / (1 - p)}:
        likely = "x ⊙ keep without the division by 1 − p" if set(values) <= {0.0, 1.0} else ""
        likely = likely or ("x ⊙ keep / p" if set(values) <= {0.0, 1 / p} else "")
        raise Refusal(
            f"drop(1) takes the values {values[:4]}: expected 0 and 1/(1 − p) = {1 / (1 - p)}", guesses=(likely,)
        )
    # Hoeffding: a share of N independent draws is further than t from its mean with probability 2·exp(−2Nt²) at most.
    share, width = float((dropped == 0).mean()), np.sqrt(np.log(2e12) / (2 * dropped.size))
    if abs(share - p) > width:
        raise Refusal(
            f"{share:.3f} of the inputs are dropped: expected p = {p} within {width:.3f} (all but once in 10¹² runs)",
            guesses=("p taken for the probability to keep",) if abs(share - (1 - p)) <= width else (),
        )
    if (dropped[:, 0] == dropped[:, 1]).all():
        raise Refusal("both inputs of every row are dropped together: expected one draw for every entry of x")
    if not np.array_equal(y[:, 2], dropped.sum(axis=1)):
        raise Refusal(
            "an output of both inputs is not the sum of those of one: expected one mask, on x",
            guesses=("dropout after A, or on the branch's output",),
        )


@check(
    "SORA-LINEAR-3.dropout",
    "the gradients under dropout, with the forward's own mask",
    formula="dA = (v ⊙ g)ᵀ drop(x), dx = dy W0 + drop((v ⊙ g)A) with the same mask",
    source="derived from SORA-LINEAR-1",
    function=sora_linear_backward,
    requires=("training_forward", "training_gradients"),
    examples=lambda subject: st.fixed_dictionaries(
        {"p": st.sampled_from((0.75, 0.5)), "seed": whole(0, 2**16), "dy": array((3, 4), subject.dtype)}
    ),
    applies=one_mask,
)
def dropout_gradients(subject: Subject, p: float, seed: int, dy: Floats) -> None:
    """The mask is read off the forward of a layer that shows it; p makes every scale exact."""
    one, ones = np.eye(4, dtype=subject.dtype), np.ones((3, 4), subject.dtype)
    x = np.resize((1.0, 2.0, -1.0, 0.5, -2.0), (3, 4)).astype(subject.dtype)
    g = np.array([1, 2, -1, 0.5] if subject.implementation.gated else [1, 1, 1, 1], subject.dtype)
    layer = Layer(2 * one, None, one, g, one, 2.0)

    def mask(key: int) -> Floats:
        dropped: Floats = (subject.training_forward(layer, ones, p, key) - 2 * ones) / (2 * g)
        return dropped

    entries_of = ((1.0, 2.0, -1.0), (0.5, -1.0, 2.0, 1.0, 1.0), (1.0, -0.5, 1.0, 2.0, -1.0, 2.0, 0.5))
    W0, A, B = (np.resize(entries, (4, 4)).astype(subject.dtype) for entries in entries_of)
    trained = Layer(W0, None, A, g, B, 2.0)

    def expected(drop: Floats) -> dict[str, Floats]:
        h, v = drop * x, 2 * dy @ B
        z = h @ A.T
        dx = dy @ W0 + drop * ((v * g) @ A)
        return {"dA": (v * g).T @ h, "dB": 2 * dy.T @ (z * g), "dg": (v * z).sum(0), "dx": dx}

    here, there = mask(seed), mask(seed + 1)

    def guesses(name: str) -> dict[str, Any]:
        others = {"a mask of its own, drawn anew": there, "no mask at all": ones}
        return {words: expected(drop)[name] for words, drop in others.items()}

    found = subject.training_gradients(trained, x, dy, p, seed)
    bounds = gradient_bounds(trained, here * x, dy, subject.precision)  # x and masks are short: their product is exact
    bounds["dx"] = np.maximum(here, 1) * bounds["dx"]
    for name, right in expected(here).items():
        if name in found:
            agree(name, found[name], exactly(right), bounds[name], subject.precision, partial(guesses, name))


CHECKS = (dropout, dropout_gradients)
