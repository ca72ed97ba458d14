"""Random numbers and initial values (clause SORA-INIT).

Every draw comes from a counter-based generator keyed by the seed, a purpose and a path (a step, an example, a module).
No stream is consumed in execution order, so results do not depend on batch splitting, workers or resuming.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct

import numpy as np

from sora_ref.linear import SoRA
from sora_ref.preconditions import require, require_finite_number


def generator(seed: int, purpose: str, *path: str | int) -> np.random.Generator:
    """The generator of one purpose: a Philox child of the seed sequence `seed` (SORA-INIT-1).

    Equal arguments give equal draws on every machine; purpose and path are hashed by SHA-256 into the child's key.
    Raises SoRAError for a negative seed.

    >>> one, other = (sr.generator(0, "dropout", 7).random() for _ in range(2))
    >>> one == other
    True
    """
    require(seed >= 0, f"seed is {seed}: expected 0 or more")
    digest = hashlib.sha256(json.dumps([purpose, *path]).encode()).digest()
    key = struct.unpack("<8I", digest)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def initial_adapter(
    seed: int,
    module: str,
    out: int,
    in_: int,
    r: int,
    alpha: float,
    *,
    gate: float | None = None,
    dtype: str = "float32",
) -> SoRA:
    """A fresh adapter of one module, as NumPy arrays (SORA-INIT-2).

    A ~ U(−1/√in, 1/√in), which is Kaiming-uniform with a = √5; B = 0, so the branch starts at zero; g ~ N(0, 1), or
    the constant `gate`; s = α/r, and s = α for rank 0 (SORA-LINEAR-2).  The paper says only "as LoRA"; these are
    the released code's.  Draws have the keys ("adapter", module, "A") and (…, "g"), in float64, and are rounded once.
    Raises SoRAError for a negative size, and for an α or a gate that is no finite number.

    >>> adapter = sr.initial_adapter(0, "query", out=3, in_=4, r=2, alpha=16.0)
    >>> adapter.A.shape, adapter.A.dtype.name, bool(adapter.B.any()), adapter.s
    ((2, 4), 'float32', False, 8.0)
    """
    require(min(out, in_, r) >= 0, f"{module}: sizes out={out}, in={in_}, r={r}: expected 0 or more")
    require_finite_number("alpha", alpha)
    bound = 1 / math.sqrt(in_) if in_ else 0.0
    A = generator(seed, "adapter", module, "A").uniform(-bound, bound, (r, in_))
    if gate is None:
        g = generator(seed, "adapter", module, "g").standard_normal(r)
    else:
        require_finite_number("initial gate", gate)
        g = np.full(r, gate)
    return SoRA(A.astype(dtype), g.astype(dtype), np.zeros((out, r), dtype), alpha / max(r, 1))


def initial_dense(seed: int, name: str, out: int, in_: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Weight (out, in) ~ N(0, 0.02²) by the key ("head", name), and zero bias (out,), as transformers initialises.

    >>> weight, bias = sr.init.initial_dense(0, "classifier", out=2, in_=4)
    >>> weight.shape, bias
    ((2, 4), array([0., 0.], dtype=float32))
    """
    weight = 0.02 * generator(seed, "head", name).standard_normal((out, in_))
    return weight.astype(dtype), np.zeros(out, dtype)


def survival_probability(thresholds_sum: float) -> float:
    """erfc(Σξ/√2): the share of N(0, 1) gates that outlive thresholds alone, no data gradient (SORA-NULL-1).

    thresholds_sum: Σ_t ξ_t over the steps made, finite and ≥ 0, else SoRAError.  The null model beside which every kept
                    count must be read.

    >>> round(sr.survival_probability(1.0), 4)
    0.3173
    """
    require_finite_number("sum of thresholds", thresholds_sum, least=0)
    return math.erfc(thresholds_sum / math.sqrt(2))
