"""SORA-INIT: how an implementation begins, and the scale it keeps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.conformance.checks.examples import whole
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.layer import Floats
from sora_ref.init import generator, initial_adapter

_ONE_IN = 1e-12  # how often a right implementation may be refused by a statistical check


def _modules(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    groups, lowest = subject.implementation.layout.groups, max(subject.implementation.least_rank, 0)
    return st.fixed_dictionaries(
        {
            "out": whole(1, 3).map(lambda k: groups * k),
            "in_": whole(1, 4),
            "r": whole(lowest, 6).map(lambda k: groups * k),
            "alpha": st.sampled_from((16.0, 1.0)),
            "seed": whole(0, 2**16),
        }
    )


@check(
    "SORA-LINEAR-2",
    "the scale is α/r_max",
    formula="s = α/max(r_max, 1)",
    source="released code",
    function=initial_adapter,
    requires="initial",
    examples=_modules,
)
def scale(subject: Subject, out: int, in_: int, r: int, alpha: float, seed: int) -> None:
    """A Python number, of every rank; what pruning does to it is SORA-PRUNE-2."""
    s = float(subject.initial("m", out, in_, r, alpha, seed).s)
    part = r // subject.implementation.layout.groups  # every slice is an implementation of its own
    expected = alpha / max(part, 1)
    if abs(s - expected) > 2.0**-52 * expected:
        likely = {alpha: "α itself", 1.0: "no scale", alpha / math.sqrt(max(part, 1)): "rsLoRA's α/√r"}.get(s, "")
        raise Refusal(f"s is {s!r} for α = {alpha}, r = {part}: expected {expected!r}", quantity="s", guesses=(likely,))


@check(
    "SORA-INIT-1",
    "draws depend on the seed and the module, and on nothing else",
    formula="draw = f(seed, purpose, path)",
    source="derived; Salmon et al. 2011",
    function=generator,
    requires="initial",
    examples=lambda subject: st.fixed_dictionaries({"seed": whole(0, 2**16)}),
)
def keyed(subject: Subject, seed: int) -> None:
    """Equal keys give equal draws whatever came between; other seeds and modules give others."""
    groups = subject.implementation.layout.groups
    sizes = (2 * groups, 8, 4 * groups, 16.0)
    first = subject.initial("layer.0", *sizes, seed)
    other = subject.initial("layer.1", *sizes, seed)
    again = subject.initial("layer.0", *sizes, seed)
    if not (np.array_equal(first.A, again.A) and np.array_equal(first.adapter.g, again.adapter.g)):
        raise Refusal(
            "the same seed and module give another draw after another module's: expected the same, bit for bit",
            guesses=("a stream of random numbers that is consumed in the order of execution",),
        )
    if np.array_equal(first.A, other.A):
        raise Refusal("two modules of one seed have the same A: expected draws of their own", quantity="A")
    g = first.adapter.g
    if len(np.unique(g)) > 1 and np.array_equal(g, other.adapter.g):
        raise Refusal("two modules of one seed have the same g: expected draws of their own", quantity="g")
    if np.array_equal(first.A, subject.initial("layer.0", *sizes, seed + 1).A):
        raise Refusal("two seeds give the same A: expected others", quantity="A")


@check(
    "SORA-INIT-2",
    "A uniform, B zero, g normal or constant",
    formula="A ~ U(−1/√in, 1/√in), B = 0, g ~ N(0, 1) or a constant",
    source="released code",
    function=initial_adapter,
    requires="initial",
    examples=lambda subject: st.fixed_dictionaries({"seed": whole(0, 2**16)}),
)
def distributions(subject: Subject, seed: int) -> None:
    """Whole distributions, by the largest distance of the empirical one (Dvoretzky, Kiefer, Wolfowitz; Massart)."""
    groups = subject.implementation.layout.groups
    in_, r = 64, groups * 24  # a bound of 1/√r shows
    layer = subject.initial("m", 8 * groups, in_, r, 16.0, seed)
    if np.any(layer.B != 0):
        raise Refusal("B is not zero: expected a branch that begins at zero", quantity="B")
    edge = 1 / math.sqrt(in_)
    if (np.abs(layer.A) > edge * (1 + 2.0**-23)).any():
        largest = float(np.abs(layer.A).max())
        raise Refusal(f"the largest entry of A is {largest:.4g}: expected at most 1/√in = {edge:.4g}", quantity="A")
    _distributed("A", layer.A, lambda a: (a / edge + 1) / 2, "U(−1/√in, 1/√in)")
    g = layer.adapter.g
    if len(np.unique(g)) == 1:
        if g[0] == 0:
            raise Refusal("every gate begins at 0: with B = 0 nothing would ever move (SORA-REVIVAL-2)", quantity="g")
        return
    sizes = [(f"m{k}", r) for k in range(16)] + [("many", groups * 16384)]
    many = np.concatenate([subject.initial(name, groups, 1, size, 16.0, seed).adapter.g for name, size in sizes])
    _distributed("g", many, lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))), "N(0, 1)")


def _distributed(name: str, values: Floats, distribution: Any, words: str) -> None:
    ordered = np.sort(np.asarray(values, float).ravel())
    n = len(ordered)
    expected = np.array([distribution(value) for value in ordered])
    steps = np.arange(n + 1) / n
    distance = float(max(np.abs(steps[1:] - expected).max(), np.abs(expected - steps[:-1]).max()))
    limit = math.sqrt(math.log(2 / _ONE_IN) / (2 * n))
    if distance > limit:
        deviation = float(np.std(ordered))
        raise Refusal(
            f"{name} (mean {ordered.mean():.3g}, standard deviation {deviation:.3g}) is not distributed as {words}: "
            f"its distribution is {distance:.3f} away, expected at most {limit:.3f} (all but once in 10¹² runs)",
            quantity=name,
        )


CHECKS = (scale, keyed, distributions)
