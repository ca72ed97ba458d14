"""The SoRA linear, its gradients and its merged forms in several arithmetics: results, exact values and bounds.

`worst` searches for the inputs whose error comes closest to the bound.  Tests assert with it, the docs print it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sora_ref import (
    SoRA,
    absorb_gate,
    delta,
    kept_components,
    merge,
    prune,
    sora_linear_backward,
    sora_linear_forward,
    unmerge,
)
from sora_ref.backends import get
from sora_ref.backends.exact_backend import Rational
from sora_ref.bounds import (
    BF16,
    FP16,
    TF32,
    Precision,
    linear_backward_bound,
    linear_bound,
    merge_bound,
    precision_of,
    unmerge_bound,
)

Floats = npt.NDArray[Any]


class Arguments(NamedTuple):
    """One SoRA linear and the gradient of its output; b may be None, s and p are Python numbers.

    p: of a dropout that happens to keep every entry of x, and multiplies it by 1/(1 − p) all the same; 0 is none.
    """

    dy: Any  # (n, out)
    x: Any  # (n, in)
    W0: Any  # (out, in)
    b: Any  # (out,)
    A: Any  # (r, in)
    g: Any  # (r,)
    B: Any  # (out, r)
    s: Any
    p: Any = 0.0

    @property
    def keep(self) -> Any:
        return np.ones(self.x.shape, bool) if self.p else None

    @property
    def adapter(self) -> SoRA:
        return SoRA(self.A, self.g, self.B, self.s)

    def map(self, convert: Callable[[Any], Any]) -> Arguments:
        """The same with every array converted; s and p stay."""
        return self._replace(**{k: convert(part) for k in self._fields[:-2] if (part := getattr(self, k)) is not None})

    def exact(self) -> Arguments:
        """The rationals these floats are."""
        from_host = get("exact").from_host
        s, p = from_host(np.array([self.s, self.p]))
        return self.map(lambda part: from_host(np.asarray(part, np.float64)))._replace(s=s, p=p)


def _y(args: Arguments, adapter: SoRA | None, W0: Any = None) -> Any:
    frozen = args.W0 if W0 is None else W0
    return sora_linear_forward(args.x, frozen, args.b, adapter, keep=args.keep, p=args.p)[0]


def _gradient(name: str) -> Callable[[Arguments], Any]:
    def compute(args: Arguments) -> Any:
        _, kept = sora_linear_forward(args.x, args.W0, None, args.adapter, keep=args.keep, p=args.p)
        return getattr(sora_linear_backward(args.dy, kept, dW0=True, db=True), f"d{name}")

    return compute


def _pruned(args: Arguments) -> SoRA:
    return prune(args.adapter, kept_components(args.g))


def _absorbed(into: Literal["A", "B"], scale: bool) -> Callable[[Arguments], Any]:
    def compute(args: Arguments) -> Any:
        pruned = _pruned(args)
        lora = absorb_gate(pruned, into=into, scale=scale)
        return _y(args, SoRA(lora.A, np.ones_like(pruned.g), lora.B, lora.s))

    return compute


GRADIENTS = ("x", "A", "g", "B", "W0", "b")
RESULTS: dict[str, Callable[[Arguments], Any]] = {
    "y": lambda args: _y(args, args.adapter),
    "y pruned": lambda args: _y(args, _pruned(args)),
    "y merged": lambda args: _y(args, None, merge(args.W0, _pruned(args)).W),
    "y, g in A": _absorbed("A", False),
    "y, s·g in A": _absorbed("A", True),
    "y, g in B": _absorbed("B", False),
    "y, s·g in B": _absorbed("B", True),
    **{f"d{name}": _gradient(name) for name in GRADIENTS},
    "W merged": lambda args: merge(args.W0, args.adapter).W,
    "W unmerged": lambda args: unmerge(merge(args.W0, args.adapter, keep_base=False)),
}
DROPOUT = ", dropout"


def compute(operation: str, args: Arguments) -> Any:
    """The result an operation is named after."""
    return RESULTS[operation.removesuffix(DROPOUT)](args)


def results(args: Arguments) -> dict[str, Any]:
    """Every result of the specification that a bound exists for, in whatever arithmetic the arguments have."""
    return {name: compute(args) for name, compute in RESULTS.items()}


def through_the_weight(args: Arguments) -> dict[str, Any]:
    """The gradients in another association: dW = s·dyᵀx first, as an implementation of the merged layer has them."""
    dW = args.s * (args.dy.T @ args.x)
    gA, Bg = args.g[:, None] * args.A, args.B * args.g
    return {
        "dA": Bg.T @ dW,
        "dB": dW @ gA.T,
        "dg": ((args.B.T @ dW) * args.A).sum(axis=1),
        "dx": args.dy @ (args.W0 + delta(args.adapter)),
    }


def gates_first(args: Arguments) -> dict[str, Any]:
    """The association that forms s·g before anything else, where it may underflow and then meet large factors."""
    gate = args.g * args.s
    z, v = args.x @ args.A.T, args.dy @ args.B
    return {
        "y": (z * gate) @ args.B.T + args.x @ args.W0.T + (0 if args.b is None else args.b),
        "dA": (v * gate).T @ args.x,
        "dB": args.dy.T @ (z * gate),
        "dx": (v * gate) @ args.A + args.dy @ args.W0,
        "W merged": args.W0 + (args.B * gate) @ args.A,
    }


def accumulated(args: Arguments) -> dict[str, Any]:
    """y and dx in one long chain each: the frozen path's products are added, one by one, to what the branch gave."""
    y = _y(args, args.adapter, np.zeros_like(args.W0))
    for k in range(args.W0.shape[1]):
        y = y + args.x[:, k, None] * args.W0[:, k]
    dx = _gradient("x")(args._replace(W0=np.zeros_like(args.W0)))
    for o in range(args.W0.shape[0]):
        dx = dx + args.dy[:, o, None] * args.W0[o]
    return {"y": y, "dx": dx}


def limit(operation: str, args: Arguments, precision: Precision) -> Floats:
    """The derived bound of one result."""
    if operation.startswith("W"):
        of_weight = unmerge_bound if operation == "W unmerged" else merge_bound
        bound: Floats = of_weight(args.W0, args.adapter, precision=precision)
        return bound
    how: dict[str, Any] = {"keep": args.keep, "p": args.p, "precision": precision}
    if operation.startswith("y"):
        bound = linear_bound(args.x, args.W0, args.b, args.adapter, **how)
        return bound
    gradients = linear_backward_bound(args.dy, args.x, args.W0, args.adapter, **how)
    bound = getattr(gradients, operation.removesuffix(DROPOUT))
    return bound


# --- arithmetics -----------------------------------------------------------------------------------------------------


class Arithmetic(NamedTuple):
    """A precision, a road into it for float64 arrays, and a wider dtype in which to look for large errors."""

    precision: Precision
    cast: Callable[[Floats], Floats]
    wider: Any


def _keep_bits(x: Floats, bits: int) -> Floats:
    """float32 rounded to `bits` significant bits, ties to even, by arithmetic on its bit pattern."""
    drop = 24 - bits
    pattern = x.view(np.uint32)
    even = (pattern >> np.uint32(drop)) & np.uint32(1)
    rounded: Floats = (pattern + even + np.uint32((1 << (drop - 1)) - 1)) >> np.uint32(drop) << np.uint32(drop)
    return rounded.view(np.float32)


ROUND_INPUT: dict[str, Callable[[Floats], Floats]] = {
    "tf32": lambda x: _keep_bits(x, 11),
    "bf16": lambda x: _keep_bits(x, 8),
    "fp16": lambda x: x.astype(np.float16).astype(np.float32),
}


class _LowPrecision(np.ndarray):
    """float32 whose matrix products round their inputs first; "stored", every operation rounds its result as well."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        name, _, how = type(self).__name__.partition(", ")
        low = ROUND_INPUT[name]
        inputs = tuple(part.view(np.ndarray) if isinstance(part, _LowPrecision) else part for part in inputs)
        if ufunc is np.matmul:
            a, b = (low(np.ascontiguousarray(part, np.float32)) for part in inputs)
            result = _truncated_product(a, b) if how == "truncating" else a @ b
        else:
            result = np.asarray(getattr(ufunc, method)(*inputs, **options))
        if how == "stored" and result.dtype == np.float32:
            result = low(result)
        if out is not None:  # y += …
            out[0].view(np.ndarray)[...] = result
            return out[0]
        return result.view(type(self))


def _truncated_product(a: Floats, b: Floats) -> Floats:
    """As a matrix unit may: every sum is cut to float32 towards zero, and flushed below its normal numbers."""
    total = np.zeros((a.shape[0], b.shape[1]))
    for k in range(a.shape[1]):
        total += a[:, k, None].astype(np.float64) * b[k]  # products of rounded inputs are exact in float64
        cut = total.astype(np.float32).astype(np.float64)
        cut = np.where(np.abs(cut) > np.abs(total), np.nextafter(cut.astype(np.float32), np.float32(0)), cut)
        total = np.where(np.abs(cut) < float(np.finfo(np.float32).smallest_normal), 0.0, cut)
    return total.astype(np.float32)


def _emulated(name: str) -> Callable[[Floats], Floats]:
    kind = type(name, (_LowPrecision,), {})
    return lambda x: x.astype(np.float32).view(kind)


ARITHMETICS = {
    "float32": Arithmetic(precision_of(np.ones(1, np.float32)), lambda x: x.astype(np.float32), np.float64),
    "float64": Arithmetic(precision_of(np.ones(1)), lambda x: x.astype(np.float64), np.longdouble),
    "tf32": Arithmetic(TF32, _emulated("tf32"), np.float64),
    "bf16": Arithmetic(BF16, _emulated("bf16"), np.float64),
    "fp16": Arithmetic(FP16, _emulated("fp16"), np.float64),
    "bf16, stored": Arithmetic(BF16.stored(), _emulated("bf16, stored"), np.float64),
}
STORED_FP16 = Arithmetic(FP16.stored(), _emulated("fp16, stored"), np.float64)
TRUNCATING = {name: ARITHMETICS[name]._replace(cast=_emulated(f"{name}, truncating")) for name in ROUND_INPUT}


# --- the search ------------------------------------------------------------------------------------------------------

AXES = {
    **{name: "no" for name in RESULTS if name.startswith("y")},
    **{"dx": "ni", "dA": "ri", "dg": "r", "dB": "or", "dW0": "oi", "db": "o", "W merged": "oi", "W unmerged": "oi"},
}
OPERATIONS = (*AXES, *(name + DROPOUT for name in ("y", "dx", "dA", "dg", "dB")))
_PLACES = {"dy": "no", "x": "ni", "W0": "oi", "A": "ri", "g": "r", "B": "or"}
_TRIALS, _FREE = 48, 40


def _axes(operation: str) -> str:
    return AXES[operation.removesuffix(DROPOUT)]


def has_bound_to_reach(operation: str, name: str, n: int) -> bool:
    """False for db where nothing rounds: a plain sum, exact for one row, which no matrix unit forms."""
    return operation != "db" or (n > 1 and name in ("float32", "float64"))


def candidates(operation: str, arithmetic: Arithmetic, n: int, size: float) -> Iterator[Arguments]:
    """Arguments whose roundings tend to be large and of one sign: mantissas just above 1, or just below a tie.

    The axes of the result have many entries, each of them another trial; those that are summed over have n.  With
    dropout 1 − p is such a mantissa too, which rounding makes smaller.
    size: of the entries; with small ones a bound may be idle by its underflow term.
    """
    rng = np.random.default_rng([n, *operation.encode()])
    sizes = {axis: _FREE if axis in _axes(operation) else n for axis in "noir"}
    ulp = 2.0**-52 if arithmetic.wider is np.longdouble else 2 * (arithmetic.precision.unit_in or 2.0**-24)
    for trial in range(_TRIALS):
        parts = {}
        for name, axes in _PLACES.items():
            shape = tuple(sizes[axis] for axis in axes)
            near_one = 1 + (rng.integers(0, 8, shape) + 0.49 * (trial % 2)) * ulp
            parts[name] = np.where(rng.random(shape) < 0.5, near_one, rng.uniform(1, 1.05, shape))
            if trial % 4 >= 2:
                parts[name] = near_one
        parts["W0"] = parts["W0"] * 2.0 ** -rng.integers(0, 2 if "W" in operation else 40)
        parts = {name: size * part for name, part in parts.items()}
        p = 0.5 - float(2 * rng.integers(0, 4) + 0.49) * ulp / 2 if operation.endswith(DROPOUT) else 0.0
        yield Arguments(**parts, b=None, s=float(1 + 0.05 * rng.random()), p=p).map(arithmetic.cast)


@cache
def worst(operation: str, name: str, n: int, size: float = 1.0) -> float:
    """The largest |error|/bound found for one operation, summed axes of n entries; the error of that entry is exact."""
    arithmetic = ARITHMETICS[name]
    share = -1.0
    for args in candidates(operation, arithmetic, n, size):
        found = np.asarray(compute(operation, args))
        wide = np.asarray(compute(operation, args.map(lambda part: np.asarray(part, arithmetic.wider))))
        shares = np.abs(found - wide) / limit(operation, args.map(np.asarray), arithmetic.precision)
        if shares.max() > share:
            place = np.unravel_index(np.argmax(shares), shares.shape)
            share, best = shares.max(), (args, place, found[place])
    args, place, value = best
    at = dict(zip(_axes(operation), place, strict=True))
    slices = {axis: slice(at[axis], at[axis] + 1) if axis in at else slice(None) for axis in "noir"}
    single = args._replace(
        **{k: np.asarray(getattr(args, k))[tuple(slices[axis] for axis in axes)] for k, axes in _PLACES.items()}
    )
    truth = compute(operation, single.exact()).item()
    bound = Rational(limit(operation, single, arithmetic.precision).item())
    return float(abs(Rational(float(value)) - truth) / bound)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table(n: int = 4) -> str:
    """Markdown: the worst observed error over its bound, by operation and arithmetic."""
    rows = [
        [op, *(f"{worst(op, name, n):.2f}" if has_bound_to_reach(op, name, n) else "–" for name in ARITHMETICS)]
        for op in OPERATIONS
    ]
    return _markdown(["operation", *ARITHMETICS], rows)


def growth(operation: str = "y", name: str = "float32", sizes: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> str:
    """Markdown: how bound and worst error grow with the length n of the sums."""
    rows = []
    for n in sizes:
        share = worst(operation, name, n)
        rows.append([str(n), f"{share:.2f}", f"{1 / share:.1f}"])
    return _markdown(["n", "worst error / bound", "bound / worst error"], rows)
