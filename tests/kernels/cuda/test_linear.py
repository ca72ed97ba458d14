"""The SoRA linear map and matrix products with cuBLAS emulated: within the derived bounds of each precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulated import HANDLE, MISSING, Cublas, make_device
from hypothesis import given
from hypothesis import strategies as st

from sora_ref import SPEC, SoRA
from sora_ref.bounds import BF16, FP16, TF32, Precision, linear_backward_bound, linear_bound
from sora_ref.kernels.cuda import matmul as blas
from sora_ref.kernels.cuda.linear import linear_operations
from sora_ref.kernels.cuda.matmul import Matmul

Floats = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
PRECISIONS: dict[str, Precision | None] = {"fp32": None, "tf32": TF32, "bf16": BF16, "fp16": FP16}
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([0, 1, 3, 8, 9])


def operands(x: Floats) -> Iterator[Floats]:
    """The same numbers, lying in memory in several ways."""
    yield x
    yield np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    yield np.repeat(x, 2, axis=-1)[..., ::2]


@pytest.mark.exact
@given(seeds, st.sampled_from(["float32", "float64"]), sizes, sizes, sizes, st.sampled_from([(), (2,), (2, 3), (0,)]))
def test_product_of_integers_is_exact_however_the_operands_lie(
    seed: int, dtype: str, m: int, k: int, n: int, stack: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    left, right, start = (rng.integers(-9, 10, (*stack, *shape)).astype(dtype) for shape in ((m, k), (k, n), (m, n)))
    for precision in PRECISIONS:
        matmul = Matmul(make_device(), precision)
        for a in operands(left):
            for b in operands(right):
                found = matmul(a, b)
                assert found.dtype == dtype
                assert np.array_equal(found, left @ right)
                out = start.copy()
                assert matmul(matmul.operand(a), b, out=out) is out
                assert np.array_equal(out, start + left @ right)
                assert np.array_equal(matmul(matmul.operand(b).T, matmul.operand(a).T), found.swapaxes(-1, -2))


@pytest.mark.exact
@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [
        ("fp32", "float32", (blas.R_32F, blas.COMPUTE_32F)),
        ("tf32", "float32", (blas.R_32F, blas.COMPUTE_32F_FAST_TF32)),
        ("bf16", "float32", (blas.R_16BF, blas.COMPUTE_32F)),
        ("fp16", "float32", (blas.R_16F, blas.COMPUTE_32F)),
        *((name, "float64", (blas.R_64F, blas.COMPUTE_64F)) for name in PRECISIONS),
    ],
)
def test_precision_is_what_cublas_is_told(precision: str, dtype: str, expected: tuple[int, int]) -> None:
    device = make_device()
    Matmul(device, precision)(np.ones((2, 3), dtype), np.ones((3, 2), dtype))
    Matmul(device, precision)(np.ones((4, 2, 3), dtype), np.ones((4, 3, 2), dtype))
    assert device.cublas.calls == [expected] * 5


@pytest.mark.exact
def test_frozen_weights_are_cast_once_and_others_at_every_use() -> None:
    device, frozen, other = make_device(), np.ones((3, 4), np.float32), np.ones((3, 4), np.float32)
    matmul = Matmul(device, "bf16", [frozen, np.ones(3, np.float32)])
    casts = device.cp.launches
    assert casts == []
    kept = matmul.operand(frozen)
    assert matmul.operand(frozen) is kept
    assert len(casts) == 1
    assert matmul.operand(other) is not matmul.operand(other)
    assert len(casts) == 3
    assert np.array_equal(kept.data, matmul.operand(other).data)


@pytest.mark.exact
def test_bfloat16_is_the_nearest_with_ties_to_even() -> None:
    values = np.concatenate(
        [
            np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32),
            (np.arange(2**12, dtype=np.uint32) << 14).view(np.float32),  # ties, and both their neighbours
            np.array([np.inf, -np.inf, np.nan, 3.4e38, -0.0, 1e-45], np.float32),
        ]
    )
    device = make_device()
    found = (Matmul(device, "bf16").operand(values[None]).data[0].astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = values.astype(np.float64)
        step = np.ldexp(1.0, np.maximum(np.frexp(exact)[1], -125) - 8)  # between neighbouring bfloat16
        quotient = np.rint(exact / step)  # to even
        nearest = np.where(np.isfinite(exact), quotient * step, exact)
        nearest = np.where(np.abs(nearest) >= 2.0**128, np.copysign(np.inf, nearest), nearest)
    assert np.array_equal(found.astype(np.float64), nearest, equal_nan=True)
    assert np.array_equal(np.signbit(found[values == 0]), np.signbit(values[values == 0]))


@pytest.mark.exact
def test_operands_that_do_not_fit_are_refused_before_anything_is_read() -> None:
    device = make_device()
    matmul = Matmul(device)
    ones = np.ones((2, 3), np.float32)
    for a, b in ((ones, ones), (ones, np.ones((3, 2))), (ones, np.ones((4, 3, 2), np.float32))):
        with pytest.raises(ValueError, match="expected shapes that fit, and one dtype"):
            matmul(a, b)
    for out in (np.ones((2, 3), np.float32), np.ones((2, 2)), np.ones((2, 4), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="expected contiguous float32"):
            matmul(ones, ones.T, out=out)
    assert device.cublas.calls == []


@pytest.mark.exact
def test_the_emulated_cublas_reads_nothing_into_what_it_overwrites() -> None:
    """β = 0 must not look at the output: it holds whatever was there, NaN too."""
    out, one, zero = np.full((1, 1), np.nan), np.ones(()), np.zeros(())
    at = [x.ctypes.data for x in (one, np.full((1, 1), 2.0), np.full((1, 1), 3.0), zero, out)]
    Cublas().gemmEx(HANDLE, 0, 0, 1, 1, 1, at[0], at[1], 1, 1, at[2], 1, 1, at[3], at[4], 1, 1, blas.COMPUTE_64F, -1)
    assert out[0, 0] == 6


@pytest.mark.bounded("SORA-BOUND-2", "SORA-BOUND-4", "SORA-BOUND-5")
@given(
    seeds,
    st.sampled_from([("float64", "fp32"), *(("float32", name) for name in PRECISIONS)]),
    st.sampled_from([(), (1,), (5,), (2, 3), (0,), (16,), (17,), (5, 9)]),  # a piece has 16 rows
    st.sampled_from([(1, 1), (4, 7), (9, 6)]),
    st.sampled_from([None, 0, 1, 3, 8]),
    st.booleans(),
    st.booleans(),
)
def test_map_and_gradients_are_within_the_bounds_of_their_precision(
    seed: int,
    arithmetic: tuple[str, str],
    leading: tuple[int, ...],
    outer: tuple[int, int],
    r: int | None,
    bias: bool,
    dropout: bool,
) -> None:
    (dtype, name), (out, in_), rng = arithmetic, outer, np.random.default_rng(seed)

    def normal(*shape: int) -> Floats:
        return np.asarray(rng.standard_normal(shape), dtype)

    x, W0, dy = normal(*leading, in_), normal(out, in_), normal(*leading, out)
    b = normal(out) if bias else None
    adapter = None if r is None else SoRA(normal(r, in_), normal(r) * (rng.random(r) < 0.7), normal(out, r), 1.7)
    keep, p = (rng.random(x.shape) < 0.6, 0.4) if dropout else (None, 0.0)
    kernels = linear_operations(*(lambda device: (device, Matmul(device, name, [W0])))(make_device()))
    y, cache = kernels["sora_linear_forward"](x, W0, b, adapter, keep=keep, p=p)
    grads = kernels["sora_linear_backward"](dy, cache, dW0=True, db=True)

    def exact(t: Any) -> Any:
        return t.astype(np.float64) if isinstance(t, np.ndarray) else t

    # Adapter entries whose square is far from the limits, so that what a float64 evaluation loses is far below u.
    wide = None if adapter is None else SoRA(*(exact(part) for part in adapter))
    right, spec = SPEC.sora_linear_forward(exact(x), exact(W0), exact(b), wide, keep=keep, p=p)
    expected = SPEC.sora_linear_backward(exact(dy), spec, dW0=True, db=True)
    precision = None if dtype == "float64" else PRECISIONS[name]
    twice = 2 if dtype == "float64" else 1 + 2.0**-20  # the specification in float64 is itself off by its own bound
    bound = linear_bound(x, W0, b, adapter, keep=keep, p=p, precision=precision)
    assert y.dtype == dtype
    assert np.all(np.abs(y - right) <= twice * bound)
    allowed = linear_backward_bound(dy, x, W0, adapter, keep=keep, p=p, precision=precision)
    for field, most in allowed._asdict().items():
        found, one = getattr(grads, field), getattr(expected, field)
        if most is None:
            assert found is None
            assert one is None
        else:
            assert found.shape == one.shape
            assert found.dtype == dtype
            assert np.all(np.abs(found - one) <= twice * most), field
    assert cache.x.shape == (int(np.prod(leading)), in_)


@pytest.mark.exact("SORA-LINEAR-4", "SORA-LINEAR-5")
def test_closed_gates_have_zero_rows_what_is_not_asked_for_is_none_and_no_argument_changes() -> None:
    rng = np.random.default_rng(0)
    given = [rng.standard_normal(shape) for shape in ((4, 6), (5, 6), (5,), (3, 6), (3,), (5, 3), (4, 5))]
    given[4][1] = 0
    before = [array.copy() for array in given]
    x, W0, b, A, g, B, dy = given
    device = make_device()
    kernels = linear_operations(device, Matmul(device))
    _, cache = kernels["sora_linear_forward"](x, W0, b, SoRA(A, g, B, 2.0))
    whole: Any = kernels["sora_linear_backward"](dy, cache)
    some = kernels["sora_linear_backward"](dy, cache, dx=False)
    assert np.all(whole.dA[1] == 0)
    assert np.all(whole.dB[:, 1] == 0)
    assert whole.dg[1] != 0
    assert some.dx is None
    assert whole.dW0 is whole.db is None
    assert all(np.array_equal(getattr(some, name), getattr(whole, name)) for name in ("dA", "dg", "dB"))
    assert all(np.array_equal(a, b) for a, b in zip(before, given, strict=True))


@pytest.mark.exact
def test_launches_of_one_adapted_layer() -> None:
    device, rng = make_device(), np.random.default_rng(0)
    kernels = linear_operations(device, Matmul(device))
    x, W0, A, B = (rng.standard_normal(shape) for shape in ((4, 6), (5, 6), (2, 6), (5, 2)))
    y, cache = kernels["sora_linear_forward"](x, W0, np.ones(5), SoRA(A, np.ones(2), B, 2.0))
    assert (len(device.cublas.calls), len(device.cp.launches)) == (3, 1)
    kernels["sora_linear_backward"](y, cache)
    assert (len(device.cublas.calls), len(device.cp.launches)) == (3 + 5, 1 + 1)


@pytest.mark.exact
def test_linear_map_does_not_depend_on_the_order_in_which_threads_run() -> None:
    rng = np.random.default_rng(0)
    x, W0, b, A, g, B, dy = (rng.standard_normal(s) for s in ((50, 6), (5, 6), (5,), (3, 6), (3,), (5, 3), (50, 5)))
    found = []
    for backwards in (False, True):
        device = make_device(backwards=backwards)
        kernels = linear_operations(device, Matmul(device))
        y, cache = kernels["sora_linear_forward"](x, W0, b, SoRA(A, g, B, 2.0))
        found.append([y, *kernels["sora_linear_backward"](dy, cache)[:4]])
        assert [name for name, _ in device.cp.launches][-1] == "sum_rows"
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.exact
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 32, 33, 50])
def test_gradient_of_the_gates_is_the_whole_sum_however_many_pieces_the_rows_make(n: int) -> None:
    rng = np.random.default_rng(n)
    x, W0, A, B, dy = (rng.integers(-4, 5, s).astype(np.float32) for s in ((n, 6), (5, 6), (3, 6), (5, 3), (n, 5)))
    device = make_device()
    kernels = linear_operations(device, Matmul(device))
    _, cache = kernels["sora_linear_forward"](x, W0, None, SoRA(A, np.ones(3, np.float32), B, 2.0))
    grads: Any = kernels["sora_linear_backward"](dy, cache)
    assert grads.dg.tolist() == (2 * ((dy @ B) * (x @ A.T)).sum(0)).tolist()
