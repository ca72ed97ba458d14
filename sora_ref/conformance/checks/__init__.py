"""The checks, by the clauses they belong to; importing this package registers them all, in this order."""

from sora_ref.conformance.checks import (  # noqa: I001 - the order is that of the list
    linear,
    dropout,
    prox,
    gate,
    step,
    schedules,
    beginnings,
    prune,
)

MODULES = (linear, dropout, prox, gate, step, schedules, beginnings, prune)
