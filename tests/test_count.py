"""SORA-COUNT: parameters by name, and the released counter's figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Space, exact

from sora_ref import SoRA, SoRAError, count_parameters, kept_components, module_ranks, prune
from sora_ref.count import Counts


def made(xp: Space, out: int, in_: int, g: list[float]) -> SoRA:
    r = len(g)
    return xp.adapter(np.ones((r, in_)), g, np.ones((out, r)), 2)


def block(xp: Space) -> dict[str, SoRA]:
    """A block of hidden size 4: a square module with two of three gates open, an FFN module with one of two."""
    return {"query": made(xp, 4, 4, [1, 0, -2]), "intermediate": made(xp, 16, 4, [0, 0.5])}


@pytest.mark.exact("SORA-COUNT-1")
def test_ranks_are_the_open_gates_of_each_module(xp: Space) -> None:
    assert module_ranks(block(xp)) == {"query": 2, "intermediate": 1}
    assert module_ranks({}) == {}


@pytest.mark.exact("SORA-COUNT-2")
def test_counts_are_those_counted_by_hand(xp: Space) -> None:
    assert count_parameters(block(xp), hidden=4, head=10) == Counts(
        components=5,
        kept=3,
        total=3 * 8 + 2 * 20,
        retained=2 * 8 + 20,
        gates=5,
        with_gates=2 * 8 + 20 + 3,
        head=10,
        with_head=2 * 8 + 20 + 10,
        released=64 + 10 - 2 * 4 * 2,
    )


@pytest.mark.exact("SORA-COUNT-2")
def test_released_counter_over_reports_what_an_ffn_module_retains(xp: Space) -> None:
    closed = {"intermediate": made(xp, 16, 4, [0, 0])}
    counts = count_parameters(closed, hidden=4)
    assert (counts.retained, counts.released) == (0, 2 * 20 - 2 * 8)
    square = count_parameters({"query": made(xp, 4, 4, [0, 1])}, hidden=4)
    assert square.retained == square.released


@pytest.mark.exact("SORA-COUNT-2")
@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=4), st.data())
def test_retained_is_what_pruning_leaves(shapes: dict[str, tuple[int, int]], data: st.DataObject) -> None:
    gates = st.lists(st.sampled_from([0, 1, -2]), max_size=4)
    adapters = {}
    for name, (out, in_) in shapes.items():
        g = data.draw(gates)
        adapters[name] = SoRA(np.ones((len(g), in_)), exact(g), np.ones((out, len(g))), 1)
    pruned = {name: prune(adapter, kept_components(adapter.g)) for name, adapter in adapters.items()}
    counts = count_parameters(adapters, hidden=3, head=7)
    assert counts.total == sum(adapter.A.size + adapter.B.size for adapter in adapters.values())
    assert counts.retained == sum(adapter.A.size + adapter.B.size for adapter in pruned.values())
    assert counts.with_gates == counts.retained + sum(adapter.g.size for adapter in pruned.values())
    assert counts.gates == counts.components == sum(adapter.g.size for adapter in adapters.values())
    assert counts.with_head - counts.retained == counts.head == 7
    assert count_parameters(pruned, hidden=3).total == counts.retained


@pytest.mark.exact("SORA-COUNT-2")
def test_deberta_base_has_the_papers_parameters_per_unit_of_rank() -> None:
    """PAPER §1: 72 modules, 165,888 parameters per unit of rank; hidden 768, FFN 3072."""
    kinds = {"q": (768, 768), "k": (768, 768), "v": (768, 768), "o": (768, 768), "up": (3072, 768), "down": (768, 3072)}
    adapters = {
        f"{layer}.{kind}": SoRA(np.zeros((1, in_)), np.ones(1), np.zeros((out, 1)), 1.0)
        for layer in range(12)
        for kind, (out, in_) in kinds.items()
    }
    assert len(adapters) == 72
    assert count_parameters(adapters, hidden=768).retained == 165_888


@pytest.mark.exact("SORA-PRUNE-1")
def test_counting_refuses_gates_that_are_not_finite_and_sizes_that_are_none(floats: Space) -> None:
    with pytest.raises(SoRAError, match=r"gates \[0\] are not finite"):
        module_ranks({"query": made(floats, 2, 2, [float("nan")])})
    for hidden, head in ((0, 0), (4, -1)):
        sentence = f"^hidden {hidden} and head {head}: expected hidden >= 1 and head >= 0$"
        with pytest.raises(SoRAError, match=sentence):
            count_parameters({}, hidden=hidden, head=head)


@pytest.mark.exact("SORA-COUNT-2")
def test_smallest_sizes_count_nothing_without_adapters() -> None:
    nothing = Counts(components=0, kept=0, total=0, retained=0, gates=0, with_gates=0, head=0, with_head=0, released=0)
    assert count_parameters({}, hidden=1, head=0) == count_parameters({}, hidden=1) == nothing
