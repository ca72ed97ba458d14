"""Which sets of kernels there are, and that each replaces operations by forms of their signatures."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from emulated import make_device
from numba_here import MISSING

from sora_ref import backends, kernels
from sora_ref.backends import Array
from sora_ref.kernels import REFERENCE
from sora_ref.kernels.cuda.operations import all_operations
from sora_ref.kernels.numpy.table import KERNELS
from sora_ref.linear import LinearGrads
from sora_ref.models import MODEL_SPEC
from sora_ref.models.ops import ActivationForward, LayerNormForward, ModelOperations, ModelOps
from sora_ref.ops import LinearBackward, Operations, Ops

COMPILED = {} if MISSING else {"numba": kernels.get("numpy", "numba")}
SETS: Mapping[str, ModelOperations] = {
    "numpy": KERNELS.training,
    "numpy, of an evaluation": KERNELS.evaluation,
    "cuda": all_operations(make_device()),
    **{name: found.training for name, found in COMPILED.items()},
    **{f"{name}, of an evaluation": found.evaluation for name, found in COMPILED.items()},
}


def test_every_backend_has_the_reference_and_takes_its_fastest_set_by_default() -> None:
    assert {backend: kernels.names(backend) for backend in backends.names()} == {
        "numpy": ("numba", "numpy", "reference"),
        "cupy": ("cuda", "reference"),
        "strict": ("reference",),
        "exact": ("reference",),
    }
    assert kernels.get("numpy", "numpy") is KERNELS
    assert kernels.get("numpy", "reference") is kernels.get("strict") is REFERENCE
    assert MODEL_SPEC.replace(**REFERENCE.training) == MODEL_SPEC


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_the_compiled_set_is_the_default_and_is_what_it_does_not_replace_of_numpys() -> None:
    compiled = kernels.get("numpy")
    assert compiled is kernels.get("numpy", "numba")
    assert compiled.libraries == ("numba", "llvmlite")
    assert compiled.training.keys() >= KERNELS.training.keys()
    assert compiled.evaluation.keys() >= KERNELS.evaluation.keys()


def test_every_set_says_its_name() -> None:
    sets = {name for backend in ("numpy", "strict") for name in kernels.names(backend)} - {"numba"}
    assert {name: kernels.get("numpy", name).name for name in sets} == {name: name for name in sets}


@pytest.mark.parametrize(
    "fault",
    [ImportError("Numba needs NumPy 2.5 or less.\nGot NumPy 2.6."), OSError("no libllvmlite.so"), AttributeError()],
)
def test_where_the_compiled_set_cannot_be_loaded_numpys_forms_are_the_default(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def refuse(name: str) -> Any:
        if name == "sora_ref.kernels.numba.table":
            raise fault
        return importlib.import_module(name)

    monkeypatch.setattr(kernels, "importlib", SimpleNamespace(import_module=refuse))
    assert kernels.get("numpy") is KERNELS
    said = " ".join(str(fault).split()) or "AttributeError"
    with pytest.raises(ImportError, match=rf"^kernels 'numba', which need numba, cannot be loaded \({said}\)$"):
        kernels.get("numpy", "numba")


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_where_numba_is_told_not_to_compile_numpys_forms_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", True)
    monkeypatch.delitem(sys.modules, "sora_ref.kernels.numba.table")
    assert kernels.get("numpy") is KERNELS
    with pytest.raises(ImportError, match="NUMBA_DISABLE_JIT is set"):
        kernels.get("numpy", "numba")


def test_a_set_that_a_backend_has_not_got_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^backend 'strict' has no kernels 'cuda': expected one of reference$"):
        kernels.get("strict", "cuda")


def test_the_table_loads_no_set_before_it_is_asked_for() -> None:
    code = (
        "import sys; from sora_ref import kernels; kernels.names('cupy'); "
        "assert not any(name.startswith('sora_ref.kernels.') for name in sys.modules); "
        "kernels.get('numpy', 'numpy'); assert {'sora_ref.kernels.cuda', 'numba'}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_page_of_kernels_says_what_each_set_replaces() -> None:
    page = Path(__file__).parents[2] / "docs" / "kernels.md"
    rows = re.findall(r"^\| `(\w+)` \| (.) \| (.) \| (.) \|", page.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name: [mark == "×" for mark in marks] for name, *marks in rows}
    sets = [SETS[name] for name in ("numpy", "numba", "cuda")]
    replaced = {field.name: [field.name in own for own in sets] for field in dataclasses.fields(ModelOps)}
    assert named == {name: marks for name, marks in replaced.items() if any(marks)}


@pytest.mark.parametrize(("record", "named"), [(Ops, Operations), (ModelOps, ModelOperations)])
def test_what_can_be_replaced_is_every_operation_with_its_signature(record: type, named: type) -> None:
    fields = {field.name for field in dataclasses.fields(record)}
    hints = get_type_hints(record)
    assert get_type_hints(named) == {name: hints[name] for name in fields}


def fits(function: Any, protocol: Any) -> bool:
    """Whether the function begins with the protocol's parameters, and what more it has takes a default."""
    own, (_, *stated) = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
        for f in (function, protocol.__call__)
    )
    more = own[len(stated) :]
    return own[: len(stated)] == stated and all(default is not inspect.Parameter.empty for *_, default in more)


@pytest.mark.parametrize("of", [*SETS, "specification"])
def test_every_form_takes_what_its_protocol_states(of: str) -> None:
    ops, stated = MODEL_SPEC.replace(**SETS.get(of, {})), get_type_hints(ModelOps)
    assert (ops == MODEL_SPEC) == (of == "specification")
    for field in dataclasses.fields(ModelOps):
        assert fits(getattr(ops, field.name), stated[field.name]), field.name


def test_a_form_of_another_signature_is_refused_by_mypy() -> None:
    """mypy reads this file too: it fails where one of these comments suppresses nothing."""

    def without_eps(x: Array, weight: Array, bias: Array) -> tuple[Array, Any]:
        raise NotImplementedError

    def value_alone(x: Array) -> tuple[Array]:
        raise NotImplementedError

    def other_name(dy: Array, cache: Any, *, dx: bool = True, dW: bool = False, db: bool = False) -> LinearGrads:
        raise NotImplementedError

    ops = MODEL_SPEC.replace(layer_norm_forward=without_eps)  # type: ignore[arg-type]
    ops = ops.replace(sora_linear_backward=other_name)  # type: ignore[arg-type]
    wrong: ModelOperations = {"layer_norm_forward": without_eps}  # type: ignore[typeddict-item]
    assert ops.layer_norm_forward is wrong["layer_norm_forward"]
    assert not fits(without_eps, LayerNormForward)
    assert not fits(other_name, LinearBackward)
    assert fits(value_alone, ActivationForward)  # what it returns is for mypy alone
    ops.replace(gelu_forward=value_alone)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        ops.replace(gelu=value_alone)  # type: ignore[call-arg]
