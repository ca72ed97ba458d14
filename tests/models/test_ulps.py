"""The layers' errors in ulps lie under their ceilings, those of wrong layers above; so do whole models'."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import mp_layers
import numpy as np
import numpy.typing as npt
import pytest
import ulps
from mp_layers import MP
from ulp_operations import DTYPES, EPS, OPERATIONS, attention_of, gelu_of, layer_norm_of

from sora_ref.models import layers

Floats = npt.NDArray[Any]

BELOW = {"float32": "float16", "float64": "float32"}
STEP = MP.mpf(10) ** -20  # of a central difference, which errs by its square times a third derivative


def test_an_ulp_is_the_spacing_of_the_numbers() -> None:
    for dtype in DTYPES:
        info, rng = np.finfo(dtype), np.random.default_rng(0)
        sizes = np.exp2(rng.uniform(math.log2(float(info.smallest_subnormal)), math.log2(float(info.max)), 200))
        for x in [*sizes.astype(dtype), info.smallest_subnormal, info.smallest_normal, np.dtype(dtype).type(1)]:
            value = MP.mpf(float(x))
            assert ulps.ulp(value, dtype) == float(np.spacing(x))
            assert ulps.error(np.nextafter(x, np.dtype(dtype).type(0)), value, value, dtype) in (0.5, 1.0)
        assert ulps.ulp(MP.zero, dtype) == float(info.smallest_subnormal)
        assert ulps.error(np.inf, MP.mpf(2) ** 2000, MP.one, dtype) == 0
        assert ulps.error(-np.inf, MP.mpf(2) ** 2000, MP.one, dtype) == math.inf
        assert ulps.error(np.nan, MP.one, MP.one, dtype) == math.inf


def numbers(rng: np.random.Generator, *shape: int) -> Any:
    values = [MP.mpf(float(x)) for x in rng.standard_normal(math.prod(shape))]
    return [values[i : i + shape[-1]] for i in range(0, len(values), shape[-1])] if len(shape) > 1 else values


def difference(f: Callable[[Any], Any], x: list[Any], i: int) -> Any:
    """∂f/∂x_i by a central difference."""
    up, down = ([v + sign * STEP * (j == i) for j, v in enumerate(x)] for sign in (1, -1))
    return (f(up) - f(down)) / (2 * STEP)


def test_the_oracles_derivatives_are_the_central_differences_of_its_values() -> None:
    rng = np.random.default_rng(5)
    x, w, b, dy = (numbers(rng, 5) for _ in range(4))

    def close(found: Any, expected: Any) -> bool:
        return bool(abs(found - expected) <= STEP**1.5)  # 10¹⁰ times its square, and 10¹⁰ below float64

    for value in x:
        assert close(mp_layers.gelu(value)[1], difference(lambda p: mp_layers.gelu(p[0])[0], [value], 0))
    dx = mp_layers.layer_norm_dx(x, w, dy, EPS)
    for i in range(5):
        assert close(dx[i], difference(lambda p: MP.fdot(mp_layers.layer_norm(p, w, b, EPS)[0], dy), x, i))

    q, k, v, dy = (numbers(rng, 3, 2) for _ in range(4))
    seen = [True, True, False]
    for part, grad in enumerate(mp_layers.attention_grads(q, k, v, seen, dy)):
        for i in range(6):

            def product(p: Any, part: int = part) -> Any:
                own = [p[j : j + 2] for j in range(0, 6, 2)]
                given = [own if n == part else x for n, x in enumerate((q, k, v))]
                y, _ = mp_layers.attention(given[0], given[1], given[2], seen)
                return MP.fsum(MP.fdot(a, g) for a, g in zip(y, dy, strict=True))

            assert close(grad[i // 2][i % 2], difference(product, [x for row in (q, k, v)[part] for x in row], i))


@pytest.mark.measured
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_worst_errors_found_lie_under_their_ceilings(name: str, dtype: str) -> None:
    found = [r for r in ulps.measure() if r.name in OPERATIONS[name].quantities and r.dtype == dtype]
    assert len(found) == len(OPERATIONS[name].quantities)
    assert [f"{r.name}: {r.ulps} ulps of {r.ceiling} at {r.where}" for r in found if not r.ulps <= r.ceiling] == []
    assert all(r.ulps > 0 for r in found), "a search that finds no error has not looked"


class Wrong(NamedTuple):
    """A wrong form of an operation, and the quantities that must exceed their ceilings by it."""

    operation: str
    form: str
    compute: Callable[[Floats], Any]
    seen_in: tuple[str, ...]


def in_the_dtype_below(operation: str) -> Callable[[Floats], Any]:
    def compute(x: Floats) -> dict[str, Floats]:
        found = OPERATIONS[operation].compute(x.astype(BELOW[str(x.dtype)]))
        return {name: np.asarray(part).astype(x.dtype) for name, part in found.items()}

    return compute


def tanh_gelu(x: Floats) -> tuple[Floats, Floats]:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    cdf = 0.5 * (1 + np.tanh(inner))
    return x * cdf, cdf


def unshifted(x: Floats) -> dict[str, Floats]:
    e = np.exp(x)
    p = e / np.sum(e, axis=-1, keepdims=True)
    return {"softmax": p, "softmax, conditioned": p}


def shifted_in_the_dtype_below(x: Floats) -> dict[str, Floats]:
    top = np.max(x, axis=-1, keepdims=True)
    d = (x - np.where(np.isfinite(top), top, 0)).astype(BELOW[str(x.dtype)]).astype(x.dtype)
    p = layers.softmax(np.where(np.isfinite(x), d, x))
    return {"softmax": p, "softmax, conditioned": p}


def logarithm_of_softmax(x: Floats) -> dict[str, Floats]:
    p = layers.softmax(x)
    return {"cross-entropy": -np.log(p[:, :1]), "cross-entropy'": p}


def norm_with(rstd: Callable[[Floats, float], Any]) -> Callable[[Floats], Any]:
    """LayerNorm whose 1/√(var + ε) is another function of the centred row and ε."""

    def forward(x: Floats, w: Floats, b: Floats, eps: float) -> Any:
        centred = x - x.mean(axis=-1, keepdims=True)
        xhat = centred * rstd(centred, eps)
        return xhat * w + b, layers.LayerNormCache(xhat, rstd(centred, eps), w)

    return layer_norm_of(forward, layers.layer_norm_backward)


def eps_outside(c: Floats, eps: float) -> Any:
    return 1 / (np.sqrt(np.mean(c * c, axis=-1, keepdims=True)) + eps)


def sample_variance(c: Floats, eps: float) -> Any:
    return 1 / np.sqrt(np.sum(c * c, axis=-1, keepdims=True) / max(c.shape[-1] - 1, 1) + eps)


def without_the_variance(dy: Floats, cache: layers.LayerNormCache) -> Any:
    dxhat = dy * cache.weight
    dx = cache.rstd * (dxhat - dxhat.mean(axis=-1, keepdims=True))
    return dx, (dy * cache.xhat)[0], dy[0]


def without_the_root(q: Floats, *rest: Any) -> Any:
    return layers.attention_forward(q / math.sqrt(q.shape[-1]), *rest)


def finite_mask(mask: Floats, dtype: Any) -> Floats:
    return np.where(mask, 0, -1e4).astype(dtype)[:, None, None, :]


def without_the_sum(dy: Floats, cache: layers.AttentionCache) -> Any:
    """dp ⊙ p in place of p ⊙ (dp − Σ dp ⊙ p)."""
    right = layers.attention_backward(dy, cache)
    ds = cache.probabilities * (dy[:, None] @ cache.v.mT) / math.sqrt(cache.q.shape[-1])
    return (ds @ cache.k)[:, 0], (ds.mT @ cache.q)[:, 0], right[2]


NORM = tuple(OPERATIONS["LayerNorm"].quantities)
ATTENTION = tuple(OPERATIONS["attention"].quantities)
SOFTMAX = tuple(OPERATIONS["softmax"].quantities)
ENTROPY = tuple(OPERATIONS["cross-entropy"].quantities)
WRONG = [
    *(Wrong(name, "in the dtype below", in_the_dtype_below(name), (name,)) for name in ("exp", "log", "erf", "tanh")),
    Wrong("tanh'", "1 - y", lambda x: {"tanh'": 1 - np.tanh(x)}, ("tanh'",)),
    Wrong("gelu", "tanh form, derivative Phi", gelu_of(tanh_gelu), ("gelu", "gelu, x ≥ 0", "gelu'")),
    Wrong("kernel's gelu", "tanh form", gelu_of(tanh_gelu, "kernel's "), ("kernel's gelu", "kernel's gelu'")),
    Wrong("softmax", "without the shift", unshifted, SOFTMAX),
    Wrong("softmax", "shifted in the dtype below", shifted_in_the_dtype_below, SOFTMAX),
    Wrong("cross-entropy", "-log softmax, gradient without onehot", logarithm_of_softmax, ENTROPY),
    Wrong("cross-entropy", "in the dtype below", in_the_dtype_below("cross-entropy"), ENTROPY),
    Wrong("LayerNorm", "eps outside the root", norm_with(eps_outside), NORM),
    Wrong("LayerNorm", "sample variance", norm_with(sample_variance), NORM),
    Wrong("LayerNorm", "in the dtype below", in_the_dtype_below("LayerNorm"), NORM),
    Wrong("LayerNorm", "without the variance's term", layer_norm_of(layers.layer_norm_forward, without_the_variance),
          ("LayerNorm, dx",)),
    Wrong("attention", "1/d for 1/sqrt(d)", attention_of(without_the_root, layers.attention_backward), ATTENTION),
    Wrong("attention", "a mask of -1e4", attention_of(layers.attention_forward, layers.attention_backward, finite_mask),
          ATTENTION),
    Wrong("attention", "softmax's backward without its sum", attention_of(layers.attention_forward, without_the_sum),
          ("attention, dq", "attention, dk")),
    Wrong("attention", "in the dtype below", in_the_dtype_below("attention"), ATTENTION),
]  # fmt: skip


@pytest.mark.measured
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.operation}, {wrong.form}")
def test_wrong_forms_exceed_the_ceilings(wrong: Wrong, dtype: str) -> None:
    operation = replace(OPERATIONS[wrong.operation], compute=wrong.compute)
    found = {r.name: r for r in ulps.measured(operation, dtype, rounds=0)}
    assert [name for name in wrong.seen_in if not found[name].ulps > 2 * found[name].ceiling] == []


def test_every_ceiling_has_a_wrong_form_that_exceeds_it() -> None:
    names = {name for operation in OPERATIONS.values() for name in operation.quantities}
    assert {name for wrong in WRONG for name in wrong.seen_in} == names


@pytest.mark.measured
@pytest.mark.parametrize(("dtype", "inside", "beyond"), [("float32", 1e18, 1e20), ("float64", 1e153, 1e155)])
def test_layer_norm_is_right_up_to_where_the_square_overflows(dtype: str, inside: float, beyond: float) -> None:
    operation = OPERATIONS["LayerNorm"]
    for size, right in ((inside, True), (beyond, False)):
        row = np.array([[-size, size, *[1.0] * 6]], dtype)
        error = ulps.errors(operation, row)["LayerNorm"][0]
        assert (error <= operation.quantities["LayerNorm"].ceiling[dtype]) is np.bool_(right)


@pytest.mark.measured
def test_models_in_float32_lie_under_their_ceilings_from_float64() -> None:
    worst = ulps.measure_models()
    assert {name: size for name, size in worst.items() if not size <= ulps.model_ceiling(name)} == {}
    for kind, names in {"results": {"logits", "loss"}, "gradients": set(worst) - {"logits", "loss"}}.items():
        assert max(worst[name] for name in names) >= ulps.MODEL_CEILING[kind] / 16, f"{kind}: a ceiling of no use"


@pytest.mark.measured
@pytest.mark.parametrize("name", ["embeddings.LayerNorm.weight", "encoder.layer.0.output.LayerNorm.weight"])
def test_a_single_weight_off_by_a_thousandth_exceeds_the_models_ceilings(name: str) -> None:
    for case in ulps.model_cases():
        weight = case.params[name].copy()
        weight[0] *= 1.001
        found = replace(case, params={**case.params, name: weight}).results("float32")
        distances = ulps.model_distances(case, found)
        assert any(size > ulps.model_ceiling(tensor) for tensor, size in distances.items())


def test_tables_have_a_row_for_every_measure() -> None:
    rows = ulps.table().splitlines()
    assert len(rows) == 2 + len(ulps.measure())
    assert len({row.replace(r"\|", "").count("|") for row in rows}) == 1
    assert sum(
        cell.strip() != "" for row in ulps.model_table().splitlines()[2:] for cell in row.split("|")[2:5]
    ) == len(ulps.measure_models())
