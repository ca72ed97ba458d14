"""Which sets of kernels there are, and that each replaces operations by forms of their signatures."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, get_type_hints

import pytest
from emulated import make_device

from sora_ref import backends, kernels
from sora_ref.backends import Array
from sora_ref.kernels import REFERENCE
from sora_ref.kernels.cuda.operations import all_operations
from sora_ref.kernels.numpy.table import KERNELS
from sora_ref.linear import LinearGrads
from sora_ref.models import MODEL_SPEC
from sora_ref.models.ops import ActivationForward, LayerNormForward, ModelOperations, ModelOps
from sora_ref.ops import LinearBackward, Operations, Ops

SETS: Mapping[str, ModelOperations] = {
    "numpy": KERNELS.training,
    "numpy, of an evaluation": KERNELS.evaluation,
    "cuda": all_operations(make_device()),
}


def test_every_backend_has_the_reference_and_takes_its_fastest_set_by_default() -> None:
    assert {backend: kernels.names(backend) for backend in backends.names()} == {
        "numpy": ("numpy", "reference"),
        "cupy": ("cuda", "reference"),
        "strict": ("reference",),
        "exact": ("reference",),
    }
    assert kernels.get("numpy") is kernels.get("numpy", "numpy") is KERNELS
    assert kernels.get("numpy", "reference") is kernels.get("strict") is REFERENCE
    assert MODEL_SPEC.replace(**REFERENCE.training) == MODEL_SPEC


def test_a_set_that_a_backend_has_not_got_is_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"^backend 'strict' has no kernels 'cuda': expected one of reference$"):
        kernels.get("strict", "cuda")


def test_the_table_loads_no_set_before_it_is_asked_for() -> None:
    code = (
        "import sys; from sora_ref import kernels; kernels.names('cupy'); "
        "assert not any(name.startswith('sora_ref.kernels.') for name in sys.modules); "
        "kernels.get('numpy'); assert 'sora_ref.kernels.cuda' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
