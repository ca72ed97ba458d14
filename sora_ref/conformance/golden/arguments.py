"""The arguments of the golden vectors: numbers with full mantissas, made by a hash and not by a random generator."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sora_ref.conformance.protocol.layer import Floats, Layer


def keyed_uniform(name: str, *shape: int) -> Floats:
    """Numbers in [−1, 1), k/2⁵² − 1 with k from SplitMix64 keyed by the name: the same on every machine."""
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    numbers: Floats = (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1
    return numbers.reshape(shape)


def layer(
    name: str, dtype: str, out: int, in_: int, r: int, *, s: float = 2.0, bias: bool = True, g: Any = None
) -> Layer:
    """A layer whose numbers need every bit."""
    gates = keyed_uniform(f"{name}.g", r) if g is None else np.array(g, float)
    W0, A, B = (
        keyed_uniform(f"{name}.W0", out, in_),
        keyed_uniform(f"{name}.A", r, in_),
        keyed_uniform(f"{name}.B", out, r),
    )
    b = keyed_uniform(f"{name}.b", out).astype(dtype) if bias else None
    return Layer(W0.astype(dtype), b, A.astype(dtype), gates.astype(dtype), B.astype(dtype), s)


def problem(name: str, dtype: str, lead: Sequence[int], *sizes: int, **options: Any) -> dict[str, Any]:
    """A layer, an input and a gradient at the output."""
    found = layer(name, dtype, *sizes, **options)
    x, dy = keyed_uniform(f"{name}.x", *lead, sizes[1]), keyed_uniform(f"{name}.dy", *lead, sizes[0])
    return {"layer": found, "x": x.astype(dtype), "dy": dy.astype(dtype)}


def short(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The same problem in multiples of 1/4, which can be followed by hand."""

    def rounded(x: Any) -> Any:
        return (np.floor(8 * x) / 4).astype(x.dtype)

    whole = parts["layer"]
    return {
        "layer": whole._replace(**{name: rounded(getattr(whole, name)) for name in ("W0", "b", "A", "g", "B")}),
        "x": rounded(parts["x"]),
        "dy": rounded(parts["dy"]),
    }


def problems(dtype: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, what is special, and the problem."""
    closed = [0.75, 0.0, -0.5, 0.0]
    plain, other = (problem(name, dtype, (2,), 3, 4, 2, s=16 / 3) for name in ("plain", "other"))
    other["layer"] = other["layer"]._replace(W0=plain["layer"].W0, b=plain["layer"].b)
    return [
        ("plain", "two rows, a bias, s = 16/3", plain),
        ("other-branch", "the frozen layer of `plain`, and another branch", other),
        ("short", "multiples of 1/4, to be followed by hand", short(problem("short", dtype, (2,), 2, 2, 2))),
        ("no-bias", "no bias; x has two leading axes", problem("no-bias", dtype, (2, 2), 2, 3, 2, bias=False)),
        ("vector", "x is one vector", problem("vector", dtype, (), 3, 2, 2, s=0.5)),
        ("rank-0", "a branch of rank 0 adds nothing", problem("rank-0", dtype, (2,), 2, 3, 0, s=16.0)),
        ("wide-rank", "a rank above in and out", problem("wide-rank", dtype, (3,), 1, 2, 4, s=16 / 3)),
        ("empty-batch", "no rows at all", problem("empty-batch", dtype, (0,), 2, 3, 2)),
        ("signed-gates", "negative gates, and zero ones", problem("signed", dtype, (2,), 3, 3, 4, g=closed)),
        ("gates-of-one", "every gate is one: a plain LoRA", problem("ones", dtype, (2,), 2, 3, 2, g=[1, 1])),
        ("all-closed", "every gate is zero", problem("all-closed", dtype, (2,), 2, 2, 2, g=[0, 0])),
    ]
