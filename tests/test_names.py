"""Names of an adapter's tensors: what packs them also unpacks and recognises them, and nothing else spells them out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref import SoRA, SoRAError, sora_linear_backward, sora_linear_forward
from sora_ref.names import adapter_names, is_adapter, is_gate, module_of, pack, pack_gradients, unpack

ROOT = Path(__file__).resolve().parents[1]
MODULE = "encoder.layer.0.output.dense"
modules = st.text(max_size=12)
SPELLED = re.compile(r"\bsora_[AgB]\b|\.sora_(?!ref|linear)|\bsora_$")


def branch() -> SoRA:
    return SoRA(np.ones((2, 3)), np.array([1.0, 0.0]), np.zeros((4, 2)), 0.5)


def test_names_are_those_of_the_reference_checkpoints() -> None:
    assert adapter_names(MODULE) == (f"{MODULE}.sora_A", f"{MODULE}.sora_g", f"{MODULE}.sora_B")


@given(modules)
def test_every_name_leads_back_to_its_module_and_the_gate_alone_is_a_gate(module: str) -> None:
    names = adapter_names(module)
    assert [module_of(name) for name in names] == [module] * 3
    assert all(is_adapter(name) for name in names)
    assert [name for name in names if is_gate(name)] == [names.g]


@pytest.mark.parametrize(
    "name",
    [
        "classifier.weight",
        "sora_gain.weight",
        "a.sora_g.bias",
        "a.soraXg",
        "",
        "a.sorag",
        "sora_ref",
        f"{MODULE}.weight",
    ],
)
def test_other_names_are_no_gates(name: str) -> None:
    assert not is_gate(name)
    assert is_adapter(name) == (name == "sora_ref")  # a last part that begins with sora_ is an adapter's, known or not


@given(modules)
def test_what_is_packed_is_unpacked_as_the_same_arrays(module: str) -> None:
    adapter = branch()
    packed = pack(module, adapter)
    assert tuple(packed) == adapter_names(module)
    found = unpack({**packed, "classifier.weight": np.zeros(1)}, module, 0.5)
    assert (found.s, found.A is adapter.A, found.g is adapter.g, found.B is adapter.B) == (0.5, True, True, True)


def test_gradients_have_the_names_of_their_tensors() -> None:
    x, adapter = np.ones((1, 3)), branch()
    for given_adapter in (adapter, None):
        y, cache = sora_linear_forward(x, np.zeros((4, 3)), None, given_adapter)
        grads = sora_linear_backward(y, cache)
        named = pack_gradients("m", grads)
        assert tuple(named) == adapter_names("m")
        assert [a is b for a, b in zip(named.values(), (grads.dA, grads.dg, grads.dB), strict=True)] == [True] * 3


def test_a_tensor_that_is_missing_is_named() -> None:
    packed = pack("m", branch())
    with pytest.raises(SoRAError, match=r"^no tensor n\.sora_A, n\.sora_g, n\.sora_B: expected A, g and B of every ad"):
        unpack(packed, "n", 1.0)
    del packed["m.sora_g"]
    with pytest.raises(SoRAError, match=r"^no tensor m\.sora_g: expected"):
        unpack(packed, "m", 1.0)


def spelled_out(source: str) -> list[str]:
    """The string literals, docstrings apart, in which the name of an adapter's tensor is spelled out."""
    tree = ast.parse(source)
    parents = (node for node in ast.walk(tree) if isinstance(node, ast.Expr))
    alone = {id(node.value) for node in parents}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [str(node.value) for node in texts if id(node) not in alone and SPELLED.search(str(node.value))]


def test_no_other_module_spells_them_out() -> None:
    files = [path for folder in ("sora_ref", "models", "backends") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)): spelled_out(path.read_text(encoding="utf-8")) for path in files}
    assert {name for name, texts in found.items() if texts} == {"sora_ref/names.py"}
    seen = (
        'f"{m}.sora_A", name.endswith("sora_g"), f"{m}.sora_{part}", f"sora_{part}", "sora_linear_forward", "sora_ref."'
    )
    assert spelled_out(seen) == [".sora_A", "sora_g", ".sora_", "sora_"]
