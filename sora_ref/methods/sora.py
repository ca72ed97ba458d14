"""SoRA (Ding et al., 2023): a branch whose gates are trained by a proximal step, so that components close.

Its null control is an option of the recipe, `gate_gradient = "zero"`: the same run without the data's say
(SORA-NULL-1).
"""

from __future__ import annotations

from collections.abc import Iterable

from sora_ref import initial_adapter, training_step
from sora_ref.methods.method import Added, Branch, Method
from sora_ref.methods.survivors import survivors
from sora_ref.names import adapter_names, pack


def add(module: str, shape: tuple[int, int], branch: Branch) -> Added:
    """A, g and B of `initial_adapter`, all trained (SORA-INIT-2)."""
    adapter = initial_adapter(branch.seed, module, *shape, branch.r, branch.alpha, gate=branch.gate, dtype=branch.dtype)
    return Added(trained=pack(module, adapter), frozen={})


def gates(modules: Iterable[str]) -> tuple[str, ...]:
    """The names of the modules' gates, in the order of the modules."""
    return tuple(adapter_names(module).g for module in modules)


SORA = Method(
    name="sora",
    title="SoRA",
    add=add,
    step=training_step,
    watched=gates,
    survivors=survivors,
    pictures=("ranks", "gates"),
)
