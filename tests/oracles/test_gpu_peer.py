"""The PyTorch half of the GPU's benchmark does the work that ours does: same gradients, same parameters afterwards."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora_ref.backends import get
from sora_ref.models.bert import BERT

torch = pytest.importorskip("torch")


@pytest.mark.independent
def test_both_halves_of_the_benchmark_have_the_same_gradients() -> None:
    spec = importlib.util.spec_from_file_location("gpu_bench", Path(__file__).parents[1] / "gpu" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    bench: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    model = bench.Classifier(BERT, bench.EncoderConfig(50, 8, 2, 2, 12, 16, 2), "mean", 2)
    params, trained = bench.make_params(model)
    given = bench.make_batch(model, 4, 6)
    step, ours = bench.our_step(model, get("numpy"), bench.MODEL_SPEC, params, trained, given)
    peer, theirs = bench.torch_step(model, params, trained, given, "fp32", "cpu")
    for _ in range(3):
        assert bench.distance(theirs(), {name: np.asarray(grad) for name, grad in ours().items()}) < 1e-3
        step()
        peer()
