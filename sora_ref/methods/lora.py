"""LoRA (Hu et al., 2022): the branch of SoRA with every gate at 1, where it stays."""

from __future__ import annotations

import numpy as np

from sora_ref import initial_adapter, training_step
from sora_ref.methods.method import Added, Branch, Method
from sora_ref.names import adapter_names


def add(module: str, shape: tuple[int, int], branch: Branch) -> Added:
    """A and B as SoRA begins with them, trained; g = 1, frozen."""
    names = adapter_names(module)
    adapter = initial_adapter(branch.seed, module, *shape, branch.r, branch.alpha, gate=1.0, dtype=branch.dtype)
    ones = np.ones(branch.r, branch.dtype)
    return Added(trained={names.A: adapter.A, names.B: adapter.B}, frozen={names.g: ones})


LORA = Method(name="lora", title="LoRA", add=add, step=training_step, pictures=("ranks",))
