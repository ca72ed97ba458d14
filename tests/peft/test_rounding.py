"""The bound of what storing an adapter in another format does to ΔW: it holds, exactly counted, and is not idle."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA
from sora_ref.peft.format import Layout
from sora_ref.peft.layouts import arranged
from sora_ref.peft.rounding import format_of, rounding_bound, stored_lora
from sora_ref.pruning import LoRA, delta

FORMATS = ("float16", "bfloat16", "float32", "float64")
formats = pytest.mark.parametrize("name", FORMATS)
MODULES = ("encoder.layer.0.output.dense", "encoder.layer.1.output.dense")


def exact(x: Any) -> Any:
    return np.vectorize(Fraction, otypes=[object])(np.asarray(x, dtype=float))


def exact_delta(A: Any, g: Any, B: Any, s: float) -> Any:
    return (exact(B) * exact(g) * Fraction(s)) @ exact(A)


def error(found: LoRA, adapter: SoRA) -> Any:
    """|s'·B̂Â − s·B diag(g) A|, exactly."""
    ones = np.ones(found.A.shape[0])
    return abs(exact_delta(found.A, ones, found.B, found.s) - exact_delta(*adapter))


@st.composite
def ragged(draw: st.DrawFn) -> dict[str, SoRA]:
    """Two adapters of different ranks and scales; from where float16 underflows to where it does not."""
    adapters = {}
    for module in MODULES:
        r, in_, out = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        exponents = draw(st.integers(-26, 3))
        A, B = (rng.standard_normal(shape) * 2.0 ** rng.integers(-3, 3, shape) for shape in ((r, in_), (out, r)))
        g = rng.standard_normal(r)
        single = [x.astype(np.float32) for x in (A * 2.0**exponents, g, B)]
        adapters[module] = SoRA(single[0], single[1], single[2], draw(st.floats(0.1, 9)))
    return adapters


@pytest.mark.bounded("SORA-PRUNE-3")
@formats
@pytest.mark.parametrize("layout", ["compact", "uniform", "folded"])
@given(adapters=ragged())
def test_storing_moves_no_entry_by_more_than_the_bound(layout: Layout, name: str, adapters: dict[str, SoRA]) -> None:
    form = format_of(name)
    for module, lora in arranged(adapters, layout).loras.items():
        bound = exact(rounding_bound(lora, form, keeps_A=name in ("float32", "float64")))
        assert (error(stored_lora(module, lora, form), adapters[module]) <= bound).all()


@pytest.mark.bounded("SORA-PRUNE-3")
@formats
def test_bound_is_not_idle(name: str) -> None:
    """Entries half a unit beyond a number of the format, one component: both roundings go the same way."""
    form = format_of(name)
    worst = 1 + form.unit * (1 - 2.0**-20) if name != "float64" else 1 + 2.0**-52
    A = B = np.full((1, 1), worst)
    g = np.full(1, 1 - 2.0**-53) if name == "float64" else np.ones(1)
    adapter = SoRA(A, g, B, 3.0)
    lora = arranged({MODULES[0]: adapter}, "compact").loras[MODULES[0]]
    bound = rounding_bound(lora, form, keeps_A=name == "float64")
    share = float(error(stored_lora("m", lora, form), adapter).item() / Fraction(float(bound.item())))
    assert (0.5 if name != "float64" else 0) < share <= 1


@example(bits=1)
@given(bits=st.integers(0, 2**16 - 1))
def test_numbers_of_the_format_are_stored_as_they_are(bits: int) -> None:
    value = np.uint16(bits).view(np.float16).astype(np.float64)
    if np.isfinite(value):
        lora = stored_lora("m", LoRA(value.reshape(1, 1), value.reshape(1, 1), 1.0), format_of("float16"))
        assert (float(lora.A.item()), float(lora.B.item())) == (float(value), float(value))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_that_overflows_is_refused_by_name(name: str) -> None:
    form = format_of(name)
    assert form.half is not None
    largest = np.full((1, 1), form.half.largest)
    stored_lora("m", LoRA(largest, largest, 1.0), form)
    for A, B, words in ((largest * 1.01, largest, "m: A"), (largest, -largest * 1.01, r"m: B diag\(g\)")):
        with pytest.raises(SoRAError, match=f"{words} is not finite in {name}"):
            stored_lora("m", LoRA(A, B, 1.0), form)


def test_folded_and_uniform_keep_the_map_up_to_the_rounding_of_one_factor() -> None:
    """Three ranks out of four: r_i/R is no power of two, and float32 rounds the product once."""
    rng = np.random.default_rng(3)
    adapters = {
        module: SoRA(rng.standard_normal((r, 5)), rng.standard_normal(r), rng.standard_normal((6, r)), s)
        for module, r, s in zip(MODULES, (3, 4), (1.7, 0.3), strict=True)
    }
    layouts: tuple[Layout, ...] = ("uniform", "folded")
    for layout in layouts:
        for module, lora in arranged(adapters, layout).loras.items():
            want = delta(adapters[module])
            A, g, B = (np.abs(part) for part in adapters[module][:3])
            size = delta(SoRA(A, g, B, adapters[module].s))
            assert np.all(np.abs(lora.s * lora.B @ lora.A - want) <= (5 + 8) * 2.0**-52 * size)
