"""On a GPU: every kernel beside the specification, repeatability, whole runs.  `make gpu` runs them; else they skip."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from kernel_bounds import gelu_bound, layer_norm_bound, unit, within
from tiny_run import arrays_of, last, make_keys, patch_step, run_once

from sora_ref import GATE_RULES, SPEC, AdamW, SoRA, kernels, training_step
from sora_ref.backends import Backend, DeviceError, get
from sora_ref.bounds import BF16, FP16, TF32, Precision, linear_backward_bound, linear_bound
from sora_ref.gate import ADAMW_METRIC
from sora_ref.models import layers
from sora_ref.ops import Update
from sora_ref.optim import Moments
from sora_ref.run.ship import write_merged, write_peft, write_pruned
from sora_ref.run.trained import load_trained

Floats = npt.NDArray[Any]
PRECISIONS: dict[str, Precision | None] = {"fp32": None, "tf32": TF32, "bf16": BF16, "fp16": FP16}


@pytest.fixture(scope="module")
def gpu() -> Backend:
    pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'sora_ref[cuda12]' on a GPU machine")
    try:
        return get("cupy")
    except DeviceError as error:
        pytest.skip(str(error))


def draw(seed: int, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Floats:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def there(gpu: Backend, *arrays: Floats) -> list[Any]:
    return [gpu.from_host(x) for x in arrays]


def back(gpu: Backend, found: Any) -> list[Floats]:
    return [gpu.to_host(x) for x in found]


def same_bits(a: Floats, b: Floats) -> bool:
    return a.dtype == b.dtype and bool(np.array_equal(a, b, equal_nan=True))


@pytest.mark.bounded
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gelu_and_layer_norm_are_within_their_roundings(gpu: Backend, dtype: str) -> None:
    x, (weight, bias) = draw(0, (513, 384), dtype, 3.0), draw(1, (2, 384), dtype)
    expected = layers.gelu_forward(x.astype(np.float64))
    forms: Any = kernels.get("cupy").training
    found = back(gpu, forms["gelu_forward"](*there(gpu, x)))
    for one, right, bound in zip(found, expected, gelu_bound(x, unit(x)), strict=True):
        assert within(one, np.asarray(right), bound)
    y, _ = forms["layer_norm_forward"](*there(gpu, x, weight, bias), 1e-12)
    exact = x.astype(np.float64), weight.astype(np.float64), bias.astype(np.float64)
    right, _ = layers.layer_norm_forward(exact[0], exact[1], exact[2], 1e-12)
    assert within(gpu.to_host(y), np.asarray(right), layer_norm_bound(x, weight, bias, 1e-12, unit(x)))


@pytest.mark.exact
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_update_and_embedding_gradient_are_the_specifications_bit_for_bit(gpu: Backend, dtype: str) -> None:
    rules: list[Any] = [
        *GATE_RULES.values(),
        ADAMW_METRIC,
        AdamW(weight_decay=0.1),
        AdamW(eps_on="raw", decays="after"),
    ]
    updates, own = {}, {}
    for k, rule in enumerate(rules):
        theta, grad, m, v = draw(k, (4, 37, 61), dtype)
        strength = 0.3 if k < len(GATE_RULES) + 1 else 0.0
        updates[f"p{k}"] = Update(theta, grad, Moments(m, v * v), rule, 1e-2, strength, decay=strength == 0)
        own[f"p{k}"] = updates[f"p{k}"]._replace(
            theta=gpu.from_host(theta), grad=gpu.from_host(grad), moments=Moments(*there(gpu, m, v * v))
        )
    for t in (1, 7):
        found = kernels.get("cupy").training["update_parameters"](own, t)
        for name, (theta, moments) in SPEC.update_parameters(updates, t).items():
            assert same_bits(gpu.to_host(found[name][0]), theta), name
            assert all(same_bits(gpu.to_host(a), b) for a, b in zip(found[name][1], moments, strict=True)), name
    ids, rows = np.random.default_rng(0).integers(0, 50, 700), draw(3, (700, 384), dtype)
    found_rows = gpu.scatter_add(50, *there(gpu, ids, rows))
    assert same_bits(gpu.to_host(found_rows), get("numpy").scatter_add(50, ids, rows))


@pytest.mark.bounded
@pytest.mark.parametrize(("dtype", "name"), [("float64", "fp32"), *(("float32", name) for name in PRECISIONS)])
def test_linear_map_is_within_the_bounds_of_its_precision(gpu: Backend, dtype: str, name: str) -> None:
    n, in_, out, r = 96, 384, 1536, 8
    x, W0, b, dy = (draw(k, s, dtype) for k, s in enumerate([(n, in_), (out, in_), (out,), (n, out)]))
    A, g, B = (draw(9 + k, s, dtype) for k, s in enumerate([(r, in_), (r,), (out, r)]))
    adapter = SoRA(A, g, B, 2.0)
    frozen = gpu.from_host(W0)
    sent = SoRA(gpu.from_host(A), gpu.from_host(g), gpu.from_host(B), 2.0)
    faster = kernels.get("cupy")
    forms: Any = faster.training if name == "fp32" else faster.precisions[name]([frozen])
    y, cache = forms["sora_linear_forward"](*there(gpu, x), frozen, *there(gpu, b), sent)
    grads = forms["sora_linear_backward"](gpu.from_host(dy), cache, dW0=True, db=True)
    wide = [t.astype(np.float64) for t in (x, W0, b, A, g, B, dy)]
    right, spec = SPEC.sora_linear_forward(wide[0], wide[1], wide[2], SoRA(wide[3], wide[4], wide[5], 2.0))
    expected = SPEC.sora_linear_backward(wide[6], spec, dW0=True, db=True)
    precision, twice = (None, 2.0) if dtype == "float64" else (PRECISIONS[name], 1 + 2.0**-20)
    assert np.all(np.abs(gpu.to_host(y) - right) <= twice * linear_bound(x, W0, b, adapter, precision=precision))
    for field, most in linear_backward_bound(dy, x, W0, adapter, precision=precision)._asdict().items():
        assert np.all(np.abs(gpu.to_host(getattr(grads, field)) - getattr(expected, field)) <= twice * most), field


@pytest.mark.measured
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_attention_is_the_specifications_and_everything_repeats_bit_for_bit(gpu: Backend, dtype: str) -> None:
    q, k, v, dy = draw(0, (4, 3, 128, 384), dtype)
    mask = np.random.default_rng(1).random((3, 128)) < 0.7
    mask[2] = False
    bias = np.asarray(layers.attention_bias(mask, dtype))
    context, spec = layers.attention_forward(q, k, v, 12, bias)
    expected = [context, *layers.attention_backward(dy, spec)]
    runs, forms = [], cast("Any", kernels.get("cupy").training)
    for _ in range(2):
        y, cache = forms["attention_forward"](*there(gpu, q, k, v), 12, gpu.from_host(bias))
        runs.append(back(gpu, [y, *forms["attention_backward"](gpu.from_host(dy), cache)]))
    for first, second, right in zip(*runs, expected, strict=True):
        assert same_bits(first, second)
        np.testing.assert_allclose(first, right, atol=500 * float(np.finfo(dtype).eps))
    assert np.all(runs[0][0][2] == 0)


@pytest.mark.measured
def test_runs_resume_bit_for_bit_and_agree_with_numpy(
    gpu: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = make_keys(tmp_path / "own") | {"dtype": "float64", "task.kind": "regression", "task.label": "rating"}
    run_once(tmp_path / "numpy", keys, train__microbatch_tokens=40)
    keys |= {"backend": "cupy"}
    whole = run_once(tmp_path / "whole", keys)
    assert whole["device_memory"] > 0
    for name, expected in last(tmp_path / "numpy").params.items():
        np.testing.assert_allclose(last(tmp_path / "whole").params[name], expected, atol=1e-8, err_msg=name)
    real, steps = training_step, 0

    def stops(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise KeyboardInterrupt
        return real(*args)

    patch_step(monkeypatch, stops)
    with pytest.raises(KeyboardInterrupt):
        run_once(tmp_path / "resumed", keys)
    run_once(tmp_path / "resumed", keys, resume=True)
    assert arrays_of(last(tmp_path / "resumed")) == arrays_of(last(tmp_path / "whole"))
    loaded = load_trained(tmp_path / "whole")
    ranks = write_pruned(loaded, tmp_path / "pruned")
    assert sum(ranks.values()) <= 3 * len(ranks)
    write_merged(loaded, tmp_path / "merged")
    assert write_peft(loaded, tmp_path / "peft", "compact", None).comparison.max_abs_diff == 0
    for precision in ("tf32", "bf16", "fp16"):
        run_once(tmp_path / precision, keys | {"dtype": "float32"}, precision=precision)
