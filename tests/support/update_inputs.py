"""What sets of kernels are given to step: all rules, and parameters of many shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from sora_ref import GATE_RULES, PAPER, RELEASED, SGD, AdamW, GateRule
from sora_ref.ops import Update
from sora_ref.optim import Moments

RULES = [
    *GATE_RULES.values(),
    RELEASED.replace(descend=AdamW(eps_on="raw", decays="after", weight_decay=0.3)),
    PAPER.replace(descend=SGD(weight_decay=0.2)),
    AdamW(),
    AdamW((0.8, 0.9), eps=1e-3, weight_decay=0.1),
    AdamW(weight_decay=0.1, decays="after"),
    AdamW(weight_decay=0.1, eps_on="raw"),
    AdamW(eps=0.0),
    SGD(),
    SGD(weight_decay=0.5),
]
SHAPES = st.sampled_from([(), (0,), (1,), (7,), (8,), (16,), (17,), (5, 9), (40,), (3, 0)])


def make_update(rng: np.random.Generator, rule: Any, shape: tuple[int, ...], dtype: str, **changes: Any) -> Update:
    def normal() -> npt.NDArray[Any]:
        return np.asarray(rng.standard_normal(shape), dtype)

    update = Update(normal(), normal(), Moments(normal(), normal() ** 2), rule, 1e-2, decay=bool(rng.integers(2)))
    if isinstance(rule, GateRule):
        update = update._replace(strength=float(rng.choice([0.0, 0.3, 2.0])), decay=False)
    return update._replace(**changes)
