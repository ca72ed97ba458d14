"""The layers with transcendental functions, what each result is measured in, and the ceilings of their errors.

κ = 1 + max|x|/√(var x + ε): how much further from zero than from each other a row's numbers lie.  A = 1 + the largest
Σ|q||k|/√d over pairs of tokens: the size of the terms of the scores.  L = ln n.

The ceilings are derived to first order in the unit roundoff u, given that NumPy's exp, log and tanh and SciPy's erf are
right to K ulps, which is measured too, and that NumPy adds up rows pairwise: up to 1024 numbers with at most 21
additions on a path, 22 roundings for a mean.  An error of c·u·scale is at most c ulps of the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mp_layers
import numpy as np
import numpy.typing as npt
import ulp_rows
from mp_layers import MP, Reals
from ulp_rows import CLASSES, SPAN, TOKENS, WIDTH

from sora_ref.backends import get
from sora_ref.kernels.numpy.gelu import gelu_forward
from sora_ref.models import layers
from sora_ref.models.losses import cross_entropy

Floats = npt.NDArray[Any]
Scaled = tuple[Reals, Reals]  # exact values, and the scale of each; a scale of None leaves the value out

DTYPES = ("float32", "float64")
K = 4.0  # NumPy tests its own float32 loops to 4 ulps
EPS = 1e-12  # of LayerNorm, as in BERT
ADDITIONS = 21


@dataclass(frozen=True)
class Quantity:
    """One result of an operation; the ceiling in ulps of `scale` by dtype, and why it is that large."""

    scale: str
    ceiling: Mapping[str, float]
    reason: str


@dataclass(frozen=True)
class Operation:
    """Rows (n, width) that do not know of each other, and what becomes of them.

    compute: rows -> results (n, m) by name; exact: one row of mpf -> values and scales by the same names.

    starts: dtype -> batches of rows by description, from which the search climbs.
    """

    compute: Callable[[Floats], Mapping[str, Floats]]
    exact: Callable[[Reals], Mapping[str, Scaled]]
    starts: Callable[[Any], Mapping[str, Floats]]
    quantities: Mapping[str, Quantity]


def both(ceiling: float) -> dict[str, float]:
    return dict.fromkeys(DTYPES, ceiling)


def _pointwise(name: str, f: Callable[[Floats], Any], g: Callable[[Any], Any], starts: Any) -> Operation:
    def exact(row: Reals) -> dict[str, Scaled]:
        value = g(row[0])
        return {name: ([value], [abs(value)])}

    text = "the hypothesis K of what follows"
    return Operation(lambda x: {name: f(x)}, exact, starts, {name: Quantity("the value", both(K), text)})


def _tanh(x: Floats) -> dict[str, Floats]:
    return {"tanh'": layers.tanh_backward(np.ones_like(x), layers.tanh_forward(x)[1])}


def _softmax(x: Floats) -> dict[str, Floats]:
    p = layers.softmax(x)
    return {"softmax": p, "softmax, conditioned": p}


def _exact_softmax(row: Reals) -> dict[str, Scaled]:
    p, top = mp_layers.softmax(row), max(row)
    wide = [v if v == 0 else v * (1 + top - x) for v, x in zip(p, row, strict=True)]
    return {"softmax": (p, p), "softmax, conditioned": (p, wide)}


def gelu_of(forward: Callable[[Floats], Any], prefix: str = "") -> Callable[[Floats], dict[str, Floats]]:
    def compute(x: Floats) -> dict[str, Floats]:
        y, derivative = forward(x)
        return {f"{prefix}gelu": y, f"{prefix}gelu, x ≥ 0": y, f"{prefix}gelu'": derivative}

    return compute


def _exact_gelu(row: Reals) -> dict[str, Scaled]:
    (x,), (y, derivative) = row, mp_layers.gelu(row[0])
    one = [MP.one]
    found = {"gelu": ([y], [abs(x)]), "gelu, x ≥ 0": ([y], [y if x >= 0 else None]), "gelu'": ([derivative], one)}
    return found | {f"kernel's {name}": (value, one) for name, (value, _) in found.items()}


def _cross_entropy(x: Floats) -> dict[str, Floats]:
    label = np.zeros(1, np.int64)
    parts = [cross_entropy(row[None], label) for row in x]
    loss = np.array([[loss] for loss, _ in parts], x.dtype)
    return {"cross-entropy": loss, "cross-entropy'": np.concatenate([gradient for _, gradient in parts])}


def _exact_cross_entropy(row: Reals) -> dict[str, Scaled]:
    top, p = max(row), mp_layers.softmax(row)
    loss = MP.log(MP.fsum(MP.exp(x - top) for x in row)) + top - row[0]
    gradient = [v - (i == 0) for i, v in enumerate(p)]
    return {"cross-entropy": ([loss], [1 + top - row[0]]), "cross-entropy'": (gradient, [MP.one] * len(p))}


def layer_norm_of(forward: Any, backward: Any) -> Callable[[Floats], dict[str, Floats]]:
    def compute(rows: Floats) -> dict[str, Floats]:
        found = []
        for x, w, b, dy in (np.split(row, 4) for row in rows):
            y, kept = forward(x[None], w, b, EPS)
            dx, dw, _ = backward(dy[None], kept)
            found.append((y[0], dx[0], dw))
        names = ("LayerNorm", "LayerNorm, dx", "LayerNorm, dw")
        return {name: np.stack(part) for name, part in zip(names, zip(*found, strict=True), strict=True)}

    return compute


def _exact_layer_norm(row: Reals) -> dict[str, Scaled]:
    d = len(row) // 4
    x, w, b, dy = (row[i * d : (i + 1) * d] for i in range(4))
    y, xhat, rstd = mp_layers.layer_norm(x, w, b, EPS)
    kappa, D = 1 + rstd * max(map(abs, x)), max(abs(p * q) for p, q in zip(w, dy, strict=True))
    wide = [kappa * (1 + abs(h)) for h in xhat]
    return {
        "LayerNorm": (y, [abs(p) * s + abs(q) for p, s, q in zip(w, wide, b, strict=True)]),
        "LayerNorm, dx": (mp_layers.layer_norm_dx(x, w, dy, EPS), [rstd * D * s for s in wide]),
        "LayerNorm, dw": (
            [p * h for p, h in zip(dy, xhat, strict=True)],
            [abs(p) * s for p, s in zip(dy, wide, strict=True)],
        ),
    }


def attention_of(
    forward: Any, backward: Any, bias: Any = layers.attention_bias
) -> Callable[[Floats], dict[str, Floats]]:
    def compute(rows: Floats) -> dict[str, Floats]:
        parts, mask = rows[:, :-TOKENS], rows[:, -TOKENS:] > 0
        q, k, v, dy = np.moveaxis(parts.reshape(-1, 4, TOKENS, WIDTH), 1, 0)
        y, kept = forward(q, k, v, 1, bias(mask, rows.dtype))
        dq, dk, dv = (g.reshape(len(rows), -1) for g in backward(dy, kept))
        return {"attention": y.reshape(len(rows), -1), "attention, dq": dq, "attention, dk": dk, "attention, dv": dv}

    return compute


def _exact_attention(row: Reals) -> dict[str, Scaled]:
    rows = [row[i : i + WIDTH] for i in range(0, 4 * TOKENS * WIDTH, WIDTH)]
    q, k, v, dy = (rows[i * TOKENS : (i + 1) * TOKENS] for i in range(4))
    seen = [m > 0 for m in row[-TOKENS:]]
    y, _ = mp_layers.attention(q, k, v, seen)
    dq, dk, dv = mp_layers.attention_grads(q, k, v, seen, dy)

    def largest(i: int, a: Any, b: Any) -> Any:
        return max(MP.fsum(abs(s * t) for s, t in zip(a[i], other, strict=True)) for other in b)

    root, columns = MP.sqrt(WIDTH), range(WIDTH)
    A = 1 + max(largest(i, q, k) for i in range(TOKENS)) / root
    P = [largest(i, dy, v) / root for i in range(TOKENS)]
    v_top, k_top = ([max(abs(r[c]) for r in part) for c in columns] for part in (v, k))
    dv_top = [MP.fsum(abs(r[c]) for r in dy) for c in columns]
    dk_top = [MP.fsum(P[i] * abs(q[i][c]) for i in range(TOKENS)) for c in columns]
    flat = {"attention": y, "attention, dq": dq, "attention, dk": dk, "attention, dv": dv}
    scales = {
        "attention": [A * s for _ in y for s in v_top],
        "attention, dq": [A * P[i] * s for i in range(TOKENS) for s in k_top],
        "attention, dk": [A * s for _ in dk for s in dk_top],
        "attention, dv": [A * s for _ in dv for s in dv_top],
    }
    return {name: ([x for row in value for x in row], scales[name]) for name, value in flat.items()}


# The ceilings.


def _operations() -> dict[str, Operation]:
    log_n, erf = math.log(CLASSES), get("numpy").erf
    L = math.log(512)
    cdf = "erf: K/2; its argument: 0.5; 1 + erf: 0.5"
    gelu = {
        "gelu": Quantity("x", both(0.984 + K / 2 + 0.5), f"{cdf}; the product: 0.5"),
        "gelu, x ≥ 0": Quantity("the value", both(K + 3), "that of Φ ≥ ½ doubled, and 1"),
        "gelu'": Quantity(
            "1", both((0.984 + K / 2 + 0.232 + 2 * K * 0.242 + 0.726 + 1) / 2), "Φ's, and of x·φ ≤ 0.242: 2K + 3"
        ),
    }
    claim = 3e-7 / float(np.finfo(np.float32).eps)
    wide = both((8.3 * (0.984 + K / 2) + 8) / 2)
    kernel = {
        "kernel's gelu": Quantity(
            "1", {**wide, "float32": claim}, "float32: 3e-7, as promised; float64: gelu's, beyond x = 8.3 exact"
        ),
        "kernel's gelu'": Quantity(
            "1", {**gelu["gelu'"].ceiling, "float32": claim}, "float32: 3e-7, as promised; float64: gelu''s"
        ),
    }
    summed = 4 * K + L + ADDITIONS + 1
    softmax = {
        "softmax": Quantity(
            "the value",
            {dtype: SPAN[dtype] + summed for dtype in DTYPES},
            "x − max: |x − max| ≤ the span of the normal numbers; exp, also in the sum: 4K; the sum: L + 22",
        ),
        "softmax, conditioned": Quantity(
            "the value·(1 + |x − max|)", both(summed), "the same, relative to what roundings of x do"
        ),
    }
    entropy = {
        "cross-entropy": Quantity(
            "1 + |x_label − max|",
            both(2 * K * (1 + log_n) + 2 * log_n + CLASSES - 1),
            "the total: 2K + L + n − 1; its logarithm: 2K·L; the rest: 2|x − max| + L",
        ),
        "cross-entropy'": Quantity(
            "1", both((0.37 + 4 * K + log_n + CLASSES + 1) / 2), "softmax's, p·|ln p| being at most 0.37"
        ),
    }
    kappa = "κ(1 + |x̂|)"
    norm = {
        "LayerNorm": Quantity(f"w·{kappa} + b", both(26), "the mean: 22 of max|x|; x − mean: 2; w and b: 2"),
        "LayerNorm, dx": Quantity(
            f"max|w·dy|·{kappa}/√(var + ε)", both(122), "x̂'s 24, three times; 1/√: 24; two means: 24 each"
        ),
        "LayerNorm, dw": Quantity(f"dy·{kappa}", both(25), "x̂'s 24, and the product"),
    }
    a, heads = both(max(12, 4 * K + 6)), both(3 * max(12, 4 * K + 3) + 21)
    further = "three times the probabilities'; sums and products: 21"
    text = "the scores: 6(A − 1), twice; exp, also in the sum: 4K; sums: 6"
    attention = {
        "attention": Quantity("A·max|v|", a, text),
        "attention, dv": Quantity("A·Σ|dy|", a, text),
        "attention, dq": Quantity("A·max|dy·v|·max|k|/√d", heads, further),
        "attention, dk": Quantity("A·Σ max|dy·v|·|q|/√d", heads, further),
    }
    tanh = {"tanh'": Quantity("1", both(K + 0.75), "tanh: K; three products below 1: 0.25 each")}

    def exact_tanh(row: Reals) -> dict[str, Scaled]:
        return {"tanh'": ([MP.sech(row[0]) ** 2], [MP.one])}

    normal = layer_norm_of(layers.layer_norm_forward, layers.layer_norm_backward)
    forward, backward = layers.attention_forward, layers.attention_backward
    return {
        "exp": _pointwise("exp", np.exp, MP.exp, ulp_rows.below_zero),
        "log": _pointwise("log", lambda x: np.log(np.abs(x)), lambda x: MP.log(abs(x)), ulp_rows.above_one),
        "erf": _pointwise("erf", erf, MP.erf, ulp_rows.points),
        "tanh": _pointwise("tanh", lambda x: layers.tanh_forward(x)[0], MP.tanh, ulp_rows.points),
        "tanh'": Operation(_tanh, exact_tanh, ulp_rows.points, tanh),
        "gelu": Operation(gelu_of(layers.gelu_forward), _exact_gelu, ulp_rows.points, gelu),
        "kernel's gelu": Operation(gelu_of(gelu_forward, "kernel's "), _exact_gelu, ulp_rows.points, kernel),
        "softmax": Operation(_softmax, _exact_softmax, ulp_rows.scores, softmax),
        "cross-entropy": Operation(_cross_entropy, _exact_cross_entropy, ulp_rows.logits, entropy),
        "LayerNorm": Operation(normal, _exact_layer_norm, ulp_rows.norm_rows, norm),
        "attention": Operation(attention_of(forward, backward), _exact_attention, ulp_rows.heads, attention),
    }


OPERATIONS = _operations()
