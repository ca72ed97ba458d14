"""SORA-PRUNE, SORA-COUNT and SORA-STORE: what is left of an implementation, merged, counted and written down."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sora_ref.bounds import unmerge_bound
from sora_ref.conformance.checks.examples import corner, in_corner, layers, long_problems, problems
from sora_ref.conformance.engine.check import check
from sora_ref.conformance.engine.judge import (
    agree,
    exact_forward,
    exact_merged,
    exactly,
    forward_bound,
    sites,
    weight_bound,
)
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.layer import Floats, Layer
from sora_ref.conformance.protocol.storage_layout import in_blocks
from sora_ref.count import count_parameters, module_ranks
from sora_ref.linear import SoRA
from sora_ref.pruning import kept_components, merge, prune, unmerge

# A gate this small is open: a tolerance would drop it, and with these A and B its component shows.
TINY = 2.0**-30
LEAST = 2.0**-126  # the smallest normal number of float32: what lies below, XLA and many GPUs take for zero


def rescaled(choices: Choices) -> str | None:
    """How the declared pruning departs from the clause, or None."""
    if choices.scale_after_pruning == "recomputed":
        return "the declared pruning recomputes s from the rank that is left (SORA-LINEAR-2)"
    return None


def ungated(subject: Subject) -> str | None:
    """Why pruning has nothing to drop."""
    return None if subject.implementation.gated else "the implementation has no gates"


def _one_layer(subject: Subject, **options: Any) -> st.SearchStrategy[dict[str, Any]]:
    return layers(subject, **options).map(lambda layer: {"layer": layer})


def _short_or_long(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    """A layer of short numbers, or one of numbers that need every bit."""
    return st.one_of(_one_layer(subject), long_problems(subject).map(lambda case: {"layer": case["layer"]}))


@check(
    "SORA-PRUNE-1",
    "a component is dropped exactly when its gate is zero",
    formula="I = {i : g_i = 0}, no tolerance",
    source="SoRA eq. 12",
    function=kept_components,
    requires="prune",
    level="core",
    examples=lambda subject: _one_layer(subject, gates=st.sampled_from((1.0, 0.0, TINY, -TINY, -1.0))),
    always=lambda subject: [
        {"layer": corner(subject, *gates)}
        for gates in ((0.0, 0.0), (0.0, TINY, -TINY), (-0.0, LEAST, -LEAST), (-1.0, 0.0, 1.0))
    ],
    applies=ungated,
)
def dropped(subject: Subject, layer: Layer) -> None:
    """Tiny gates stay, negative ones too, all and none are dropped."""
    left = subject.prune(layer)
    groups, lowest = subject.implementation.layout.groups, subject.implementation.least_rank
    opened = np.reshape(layer.adapter.g != 0, (groups, -1)).sum(
        axis=1
    )  # slices of one layer have one rank, the largest
    expected = groups * max(int(opened.max()), lowest)
    r = left.A.shape[0]
    if left.B.shape[-1] != r or (left.g is not None and left.g.shape != (r,)):
        shapes = f"A {left.A.shape}, g {None if left.g is None else left.g.shape}, B {left.B.shape}"
        raise Refusal(f"what is left does not fit together: {shapes}")
    if r != expected:
        g = layer.adapter.g
        guesses = {
            "a tolerance, which drops small gates": int((np.abs(g) > 1e-6).sum()),
            "negative gates are dropped": int((g > 0).sum()),
            "nothing is dropped": len(g),
            "rank 0 is forced to 1": max(expected, 1),
            "the open ones are dropped, and the closed ones kept": int((g == 0).sum()),
        }
        fitting = tuple(words for words, count in guesses.items() if count == r)
        raise Refusal(f"{r} components are left: expected {expected}", quantity="rank", guesses=fitting)


@check(
    "SORA-PRUNE-2",
    "pruning does not change the map, nor s",
    formula="f(pruned, x) = f(layer, x)",
    source="SoRA eq. 12",
    function=prune,
    requires="prune",
    level="core",
    examples=lambda subject: st.one_of(problems(subject, leading=((2,), (1,))), long_problems(subject)),
    always=lambda subject: [in_corner(subject, 0.0, 2.0, -1.0)],
    deviation=rescaled,
)
def same_map(subject: Subject, layer: Layer, x: Floats, dy: Floats) -> None:
    """The pruned layer's map by the specification, on the same x."""
    left, precision = subject.prune(layer), subject.precision
    if layer.W0.shape[-2:] != (left.B.shape[0], left.A.shape[1]):
        raise Refusal(f"what is left maps {left.A.shape[1]} to {left.B.shape[0]}: expected {layer.W0.shape[::-1]}")
    kept = layer._replace(W0=layer.W0, A=left.A, g=left.g, B=left.B, s=float(left.s))
    if subject.choices.scale_after_pruning == "recomputed":
        rank = layer.adapter.rank
        kept = kept._replace(s=kept.s * left.A.shape[0] / max(rank, 1))
    # The exact map of what is left: folding g and s into A or B rounds every product twice, and N = 2·in + r + 4 ≥ 6.
    bound = forward_bound(layer, x, precision)
    got = np.asarray(exact_forward(kept, x))
    truth = exact_forward(layer, x)
    guesses = (lambda: _wrong_prunings(layer, x)) if layer.W0.ndim == 2 else None
    agree("y", got.astype(float), truth, bound, precision, guesses)
    if left.b is None and layer.b is not None and layer.b.any():
        raise Refusal("the bias of the frozen layer is lost: expected b as it was", quantity="b")
    if left.b is not None and (layer.b is None or not np.array_equal(left.b, layer.b)):
        raise Refusal("the bias of the frozen layer has changed: expected b as it was", quantity="b")
    if not np.array_equal(left.W0, layer.W0):
        raise Refusal("pruning changes W0: expected the frozen weight as it was", quantity="W0")


def _wrong_prunings(layer: Layer, x: Floats) -> dict[str, Any]:
    W0, b, A, _, B, s = layer
    g = layer.adapter.g
    base = x @ W0.T + (0 if b is None else b)
    open_ = g != 0
    kept, r = int(open_.sum()), max(len(g), 1)

    def map_of(gate: Any, scale: float = s) -> Any:
        return base + scale * ((x @ A.T) * gate) @ B.T

    return {
        "s recomputed as α/(the rank that is left)": map_of(g, s * r / max(kept, 1)),
        "the gate is dropped, and not absorbed": map_of(np.where(open_, 1.0, 0.0)),
        "the gate is absorbed as |g|": map_of(np.abs(g)),
        "the gate is absorbed in A and in B": map_of(g * g),
        "the gate is absorbed as √|g| in A and B, which loses its sign": map_of(np.abs(g)),
        "the closed components are kept, and the open ones dropped": map_of(np.where(open_, 0.0, 1.0)),
        "s is folded in, and kept as well": map_of(g, s * s),
        "s is lost": map_of(g, 1.0),
        "the first components are kept, whichever gates are open": map_of(np.where(np.arange(len(g)) < kept, g, 0)),
    }


@check(
    "SORA-PRUNE-4",
    "merging",
    formula="W = W0 + s·B diag(g) A",
    source="derived from SoRA eq. 6-9",
    function=merge,
    requires="merge",
    examples=_short_or_long,
    always=lambda subject: [{"layer": corner(subject, 0.0, 2.0, -1.0)}],
)
def merged(subject: Subject, layer: Layer) -> None:
    """The merged weight of layers of every rank, 0 included."""
    W, precision = subject.merge(layer), subject.precision
    guesses = (lambda: _wrong_merges(layer)) if layer.W0.ndim == 2 else None
    agree("W", W, exact_merged(layer), weight_bound(layer, precision), precision, guesses)


def _wrong_merges(layer: Layer) -> dict[str, Any]:
    W0, _, A, _, B, s = layer
    g = layer.adapter.g
    change = s * (B * g) @ A
    return {
        "the merge without s": W0 + change / s,
        "the merge without the gate": W0 + s * B @ A,
        "the merge with |g|": W0 + s * (B * np.abs(g)) @ A,
        "the merge with g²": W0 + s * (B * g * g) @ A,
        "the merge with s²": W0 + s * change,
        "the branch subtracted": W0 - change,
        "the branch alone": change,
        "the branch transposed": W0 + change.T if W0.shape[0] == W0.shape[1] else W0,
        "W0 as it was": W0,
        "the branch added twice": W0 + 2 * change,
    }


@check(
    "SORA-PRUNE-4.refuse",
    "a second merge, a tied weight and dropout in training are refused",
    formula="merge raises",
    source="derived",
    function=merge,
    requires="refuse_merge",
    examples=lambda subject: st.fixed_dictionaries(
        {"layer": layers(subject, least=1), "case": st.sampled_from(("again", "tied", "dropout"))}
    ),
)
def refused_merges(subject: Subject, layer: Layer, case: str) -> None:
    """Each of the three has to raise an error."""
    words = {
        "again": "a second merge of one layer adds the branch twice",
        "tied": "a merge into a tied weight changes the other layer",
        "dropout": "a merge in training with dropout equals no evaluation of the branch",
    }
    if not subject.refuse_merge(layer, case):
        raise Refusal(f"{words[case]}, and goes through: expected an error")


@check(
    "SORA-PRUNE-5",
    "unmerging gives W0 back",
    formula="unmerge(merge(W0)) = W0 bit for bit where it was kept, else within u|W0| + (1+u)u(|W0| + |ΔW|)",
    source="derived",
    function=unmerge,
    requires="unmerge",
    examples=lambda subject: _one_layer(subject),
)
def unmerged(subject: Subject, layer: Layer) -> None:
    """Within the rounding bound of an implementation that keeps no copy of W0."""
    W0, precision = subject.unmerge(layer), subject.precision
    bound = np.stack([unmerge_bound(site.W0, layer.adapter, precision=precision) for site in sites(layer)])
    bound = bound.reshape(layer.W0.shape)
    merged_ = exact_merged(layer).astype(float)
    guesses = {
        "the merged weight, as it was before unmerging": merged_,
        "W0 − ΔW: the branch is taken off twice": 2 * layer.W0 - merged_,
        "W0 + 2ΔW": 2 * merged_ - layer.W0,
    }
    agree("W0", W0, exactly(layer.W0), bound, precision, lambda: guesses)


def _models(subject: Subject) -> st.SearchStrategy[dict[str, Any]]:
    names = ("attention.query", "attention.output", "ffn.in", "ffn.out")
    gates = st.sampled_from((1.0, 0.0, TINY, -TINY, -1.0, LEAST))
    return st.lists(layers(subject, gates=gates), min_size=1, max_size=3).map(
        lambda found: {"layers_": dict(zip(names, found, strict=False))}
    )


@check(
    "SORA-COUNT-1",
    "the rank of every module",
    formula="rank = #{i : g_i ≠ 0}",
    source="SoRA eq. 12",
    function=module_ranks,
    requires="ranks",
    examples=_models,
)
def ranks(subject: Subject, layers_: dict[str, Layer]) -> None:
    """The ranks of all modules."""
    expected = {name: int((layer.adapter.g != 0).sum()) for name, layer in layers_.items()}
    found = subject.ranks(layers_)
    if found != expected:
        likely = "the number of all components" if found == {n: x.adapter.rank for n, x in layers_.items()} else ""
        raise Refusal(f"the ranks are {found}: expected {expected}", guesses=(likely,))


@check(
    "SORA-COUNT-2",
    "the parameters retained",
    formula="Σ over modules of (in + out)·#{i : g_i ≠ 0}",
    source="SoRA eq. 12",
    function=count_parameters,
    requires="count",
    examples=_models,
    applies=lambda subject: (
        "a fused or tied layer shares what is counted"
        if subject.implementation.layout.groups > 1 or subject.implementation.layout.sites > 1
        else None
    ),
)
def counted(subject: Subject, layers_: dict[str, Layer]) -> None:
    """Modules of different shapes, in which a gate costs different numbers of parameters."""
    parts = [(x.A.shape[1], x.B.shape[0], x.adapter.rank, int((x.adapter.g != 0).sum())) for x in layers_.values()]
    expected = sum((in_ + out) * kept for in_, out, _, kept in parts)
    found = subject.count(layers_)
    if found == expected:
        return
    hidden = parts[0][0]
    total = sum((in_ + out) * r for in_, out, r, _ in parts)
    closed = sum(r - kept for _, _, r, kept in parts)
    guesses = {
        "all parameters less 2·hidden for every closed gate (the released counter)": total - 2 * hidden * closed,
        "all parameters, closed components included": total,
        "the gates are counted too": sum((in_ + out + 1) * kept for in_, out, _, kept in parts),
        "A alone": sum(in_ * kept for in_, _, _, kept in parts),
        "B alone": sum(out * kept for _, out, _, kept in parts),
        "components, not parameters": sum(kept for *_, kept in parts),
        "2·in for every component, whatever out is": sum(2 * in_ * kept for in_, _, _, kept in parts),
        "nonzero entries of A and B": sum(int(np.count_nonzero(x.A) + np.count_nonzero(x.B)) for x in layers_.values()),
    }
    raise Refusal(
        f"{found} parameters are retained: expected {expected}",
        quantity="count",
        got=found,
        expected=expected,
        guesses=tuple(words for words, count in guesses.items() if count == found),
    )


@check(
    "SORA-STORE-1",
    "what is saved is loaded again, bit for bit",
    formula="load(save(layer)) = layer: A, g with its zeros, B and s, in their dtype",
    source="derived",
    function=SoRA,
    since="0.3",
    requires=("save", "load"),
    examples=lambda subject: st.fixed_dictionaries(
        {"layer": layers(subject, gates=st.sampled_from((1.0, 0.0, -0.1, 1 / 3, TINY)))}
    ),
)
def stored(subject: Subject, layer: Layer) -> None:
    """Numbers with full mantissas; everything that the map needs comes back."""
    third, groups = np.asarray(1 / 3, subject.dtype), subject.implementation.layout.groups
    layer = layer._replace(A=layer.A + third, B=in_blocks(layer.B + third, groups), s=16 / 3 if layer.s != 1 else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        back = subject.store(layer, Path(folder))
    found, expected = back.adapter, layer.adapter
    for name in ("A", "g", "B"):
        one, two = np.asarray(getattr(found, name)), getattr(expected, name)
        if one.dtype != two.dtype:
            raise Refusal(f"{name} comes back as {one.dtype}: expected {two.dtype}", quantity=name)
        if not np.array_equal(one, two):
            likely = ""
            if name == "g" and one.shape == two.shape:
                likely = "the gate is lost" if (one == 1).all() else likely
                likely = "the gate is saved as |g|" if np.array_equal(one, np.abs(two)) else likely
            if one.shape == two.T.shape and np.array_equal(one, two.T):
                likely = f"{name} transposed"
            if one.size == two.size and np.array_equal(one.ravel(order="K"), two.ravel(order="F")):
                likely = "the memory of an array that is not C-contiguous, read as if it were (safetensors 0.8.0)"
            raise Refusal(
                f"{name} comes back as {one.tolist()}: expected {two.tolist()}", quantity=name, guesses=(likely,)
            )
    for name in ("W0", "b"):
        one, two = getattr(back, name), getattr(layer, name)
        if (one is None) != (two is None) or not np.array_equal(one, two):
            raise Refusal(f"{name} is not what was given to load: expected the frozen layer as it is", quantity=name)
    if float(back.s) != layer.s:
        likely = "s is lost" if float(back.s) == 1 else ""
        raise Refusal(f"s comes back as {float(back.s)!r}: expected {layer.s!r}", quantity="s", guesses=(likely,))


CHECKS = (dropped, same_map, merged, refused_merges, unmerged, ranks, counted, stored)
