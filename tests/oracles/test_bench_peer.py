"""The benchmark's sides do the same work: the same loss, the same gradient, the same logits, from the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora_ref.run.artefacts import is_cached

pytest.importorskip("torch")
BENCH = Path(__file__).resolve().parents[1] / "bench"
U = 2.0**-24
NEAR = 64 * U  # measured: losses and norms 1.3 u apart relatively, logits 11 u of the largest


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Any, Any, Any]]:
    """Job, Ours, Torch."""
    for name in ("minilm", "hutto2014"):
        if not is_cached(name):
            pytest.skip(f"{name} is not in the cache: sora-ref fetch {name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        from job import Job
        from ours import Ours
        from torch_peer import Torch

        yield Job, Ours, Torch


@pytest.mark.weights
@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize(
    "work",
    [
        {"batch": 4, "length": 16},
        {"batch": 4, "length": 16, "rank": 3, "closed": 0.7, "fold": False},
        {"batch": 4, "length": 16, "gated": False, "kernels": "reference"},
        {"length": 0},
    ],
    ids=["full", "not folded", "LoRA", "movies"],
)
def test_a_training_step_has_the_same_loss_and_gradient(sides: tuple[Any, Any, Any], work: dict[str, Any]) -> None:
    Job, Ours, Torch = sides
    ours, theirs = (side(Job(**work)).result() for side in (Ours, Torch))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], rel=NEAR)
    other = Torch(Job(**work | {"batch": 3})).result()
    assert other["norm"] != pytest.approx(theirs["norm"], rel=NEAR), "the control, of another batch, looks the same"


@pytest.mark.weights
@pytest.mark.measured("SORA-PRUNE-4")
@pytest.mark.parametrize("merged", [False, True])
def test_inference_has_the_same_logits(sides: tuple[Any, Any, Any], merged: bool) -> None:
    Job, Ours, Torch = sides
    work = {"what": "infer", "batch": 4, "length": 16}
    ours, theirs = (np.array(side(Job(**work, merged=merged)).result()["logits"]) for side in (Ours, Torch))
    limit = NEAR * np.max(np.abs(theirs))
    assert np.max(np.abs(ours - theirs)) <= limit
    bare = np.array(Torch(Job(**work, rank=0)).result()["logits"])
    assert np.max(np.abs(ours - bare)) > limit, "the control, without adapters, looks the same"
