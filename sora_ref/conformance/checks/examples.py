"""Hypothesis strategies that the checks share: small sizes and short numbers, so that people can read a counterexample.

Entries are multiples of 1/4 with at most four bits: every precision holds them exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.layer import Floats, Layer
from sora_ref.conformance.protocol.storage_layout import grouped

# Nonzero entries come first: a counterexample shrinks to ones, in which a lost factor shows, and not to zeros.
ENTRIES = (1.0, 2.0, -1.0, 3.0, 0.5, -2.0, 0.0, 1.5, -0.25, -3.0)
GATES = (1.0, 2.0, -1.0, 0.0, 0.5, -1.5, 2.0**-20)
SCALES = (1.0, 2.0, 0.5, 16 / 3)
LEADING: tuple[tuple[int, ...], ...] = ((1,), (2,), (), (2, 2), (0,), (1, 2, 1), (2, 3))


def whole(least: int, most: int) -> st.SearchStrategy[int]:
    """Integers of a range.  (`st.integers` mixes in constants of whatever modules are loaded: no equal seeds then.)"""
    return st.sampled_from(range(least, most + 1))


entries = st.sampled_from(ENTRIES)
gate_entries = st.sampled_from(GATES)


def array(shape: Sequence[int], dtype: str, elements: st.SearchStrategy[float] = entries) -> st.SearchStrategy[Floats]:
    """An array of this shape."""
    count = math.prod(shape)
    values = st.lists(elements, min_size=count, max_size=count)
    return values.map(lambda found: np.array(found, dtype).reshape(tuple(shape)))


@st.composite
def layers(
    draw: st.DrawFn,
    subject: Subject,
    *,
    least: int = 0,
    most: int = 4,
    gates: st.SearchStrategy[float] = gate_entries,
) -> Layer:
    """A layer the subject can hold, of rank `least` to `most`; B's blocks are on the diagonal where it is grouped.

    Sizes and the scale are drawn first, so that taking entries away while shrinking does not change them.
    """
    implementation, layout, dtype = subject.implementation, subject.implementation.layout, subject.dtype
    groups, lead = layout.groups, () if layout.sites == 1 else (layout.sites,)
    s = draw(st.sampled_from(SCALES))
    biased = implementation.biased and draw(st.booleans())
    out, in_ = groups * draw(whole(1, 3)), draw(whole(1, 3))
    part = draw(whole(max(implementation.least_rank, least), max(most, implementation.least_rank)))
    r = groups * part
    g = draw(array((r,), dtype, gates)) if implementation.gated else np.ones(r, dtype)
    B, A = draw(array((out, part), dtype)), draw(array((r, in_), dtype))
    b = draw(array((*lead, out), dtype)) if biased else None
    W0 = draw(array((*lead, out, in_), dtype))
    return Layer(W0, b, A, g, grouped(B, groups) if groups > 1 else B, s)


def corner(subject: Subject, *gates: float) -> Layer:
    """A square layer in which nothing is symmetric, with these gates in every group."""
    implementation, layout, dtype = subject.implementation, subject.implementation.layout, subject.dtype
    groups, lead, part = layout.groups, () if layout.sites == 1 else (layout.sites,), len(gates)

    def numbers(*shape: int) -> Floats:
        return np.resize(ENTRIES, shape).astype(dtype)

    out, in_, r = 3 * groups, 3, groups * part
    g = np.resize(gates, r).astype(dtype) if implementation.gated else np.ones(r, dtype)
    B = numbers(out, part)
    b = numbers(*lead, out) if implementation.biased else None
    return Layer(numbers(*lead, out, in_), b, numbers(r, in_), g, grouped(B, groups) if groups > 1 else B, 2.0)


@st.composite
def problems(
    draw: st.DrawFn,
    subject: Subject,
    *,
    leading: Sequence[tuple[int, ...]] = LEADING,
    least: int = 0,
    gates: st.SearchStrategy[float] = gate_entries,
) -> dict[str, Any]:
    """A layer, an input and a gradient at the output."""
    lead = draw(st.sampled_from(leading))
    layer = draw(layers(subject, least=least, gates=gates))
    if layer.W0.ndim == 3:
        lead = (len(layer.W0), *lead)
    x = draw(array((*lead, layer.W0.shape[-1]), subject.dtype))
    dy = draw(array((*lead, layer.W0.shape[-2]), subject.dtype))
    return {"layer": layer, "x": x, "dy": dy}


def in_corner(subject: Subject, *gates: float) -> dict[str, Any]:
    """`corner` with an input and a gradient."""
    layer = corner(subject, *gates)
    lead = (*layer.W0.shape[:-2], 2)
    x, dy = (np.resize(ENTRIES, (*lead, size)).astype(subject.dtype) for size in layer.W0.shape[:-3:-1])
    return {"layer": layer, "x": x, "dy": dy}


@st.composite
def long_problems(draw: st.DrawFn, subject: Subject) -> dict[str, Any]:
    """Sums of 24 terms of full-mantissa numbers: what is computed in less than it is declared shows."""
    layout, rng = subject.implementation.layout, np.random.default_rng(draw(whole(0, 2**16)))
    groups, lead = layout.groups, () if layout.sites == 1 else (layout.sites,)
    (in_, part, n), out = draw(st.sampled_from(((24, 4, 2), (3, 4, 40), (3, 12, 2)))), 2 * groups

    def make(*shape: int) -> Floats:
        numbers: Floats = rng.standard_normal(shape).astype(subject.dtype)
        return numbers

    g = make(groups * part) if subject.implementation.gated else np.ones(groups * part, subject.dtype)
    b = make(*lead, out) if subject.implementation.biased else None
    B = grouped(make(out, part), groups)
    layer = Layer(make(*lead, out, in_), b, make(groups * part, in_), g, B, draw(st.sampled_from(SCALES)))
    return {"layer": layer, "x": make(*lead, n, in_), "dy": make(*lead, n, out)}
