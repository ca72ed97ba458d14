"""Counts of parameters, each by its name (clause SORA-COUNT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sora_ref.linear import SoRA
from sora_ref.preconditions import require
from sora_ref.pruning import kept_components


class Counts(NamedTuple):
    """How large a set of adapters is.

    components:    rank summed over modules.        kept: those with g_i ≠ 0.
    total:         entries of all A and B.          retained: those of kept components, what pruning leaves.
    gates:         entries of all g.                with_gates: retained + kept, before the gates are absorbed.
    head:          entries of the head.             with_head: retained + head.
    released:      what the released counter reports as retained: it counts A, B and head, and deducts 2·hidden for
                   every zero gate whatever the module's shape.  Deviation: a component of an FFN module costs
                   in + out = 5·hidden, so the counter over-reports what is left.

    >>> adapter = sr.SoRA(A=np.ones((2, 4)), g=np.array([0.0, 0.5]), B=np.ones((3, 2)), s=2.0)
    >>> counts = sr.count_parameters({"query": adapter}, hidden=4)
    >>> counts.total, counts.retained, counts.with_gates
    (14, 7, 8)
    """

    components: int
    kept: int
    total: int
    retained: int
    gates: int
    with_gates: int
    head: int
    with_head: int
    released: int


def module_ranks(adapters: Mapping[str, SoRA]) -> dict[str, int]:
    """Components with g_i ≠ 0, by module (SORA-COUNT-1).

    >>> sr.module_ranks({"query": sr.SoRA(A=np.ones((2, 4)), g=np.array([0.0, 0.5]), B=np.ones((3, 2)), s=2.0)})
    {'query': 1}
    """
    return {module: len(kept_components(adapter.g)) for module, adapter in adapters.items()}


def count_parameters(adapters: Mapping[str, SoRA], *, hidden: int, head: int = 0) -> Counts:
    """Counts of these adapters (SORA-COUNT-2).

    hidden: the model's hidden size, at least 1; head: parameters of its head, at least 0; else SoRAError.

    >>> adapter = sr.SoRA(A=np.ones((2, 4)), g=np.array([0.0, 0.5]), B=np.ones((3, 2)), s=2.0)
    >>> sr.count_parameters({"query": adapter}, hidden=4, head=10).with_head
    17
    """
    require(hidden >= 1 and head >= 0, f"hidden {hidden} and head {head}: expected hidden >= 1 and head >= 0")
    ranks = module_ranks(adapters)
    cost = {module: adapter.A.shape[1] + adapter.B.shape[0] for module, adapter in adapters.items()}
    components = sum(adapter.rank for adapter in adapters.values())
    kept = sum(ranks.values())
    total = sum(cost[module] * adapter.rank for module, adapter in adapters.items())
    retained = sum(cost[module] * rank for module, rank in ranks.items())
    return Counts(
        components=components,
        kept=kept,
        total=total,
        retained=retained,
        gates=components,
        with_gates=retained + kept,
        head=head,
        with_head=retained + head,
        released=total + head - 2 * hidden * (components - kept),
    )
