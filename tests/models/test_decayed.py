"""Which parameters weight decay acts on: read from the forward, in which every norm and every bias is used as one."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_bert import cases, make_case

from sora_ref.models import MODEL_SPEC, Architecture, HeadName


@pytest.mark.exact("SORA-STEP-6")
@cases()
def test_exactly_biases_and_norms_are_not_decayed(architecture: Architecture, config: Any, head: HeadName) -> None:
    """A norm is what `layer_norm_forward` is given, a bias the b of `sora_linear_forward`; no gate is asked about."""
    case = make_case(0, architecture=architecture, config=config, head=head)
    norms, biases = set[int](), set[int]()

    def layer_norm(x: Any, weight: Any, bias: Any, eps: float, residual: Any = None) -> Any:
        norms.update((id(weight), id(bias)))
        return MODEL_SPEC.layer_norm_forward(x, weight, bias, eps, residual)

    def linear(x: Any, W0: Any, b: Any, adapter: Any, **dropout: Any) -> Any:
        biases.add(id(b))
        return MODEL_SPEC.sora_linear_forward(x, W0, b, adapter, **dropout)

    case.forward(params=case.params, ops=MODEL_SPEC.replace(layer_norm_forward=layer_norm, sora_linear_forward=linear))
    spared = {name for name, value in case.params.items() if id(value) in norms | biases}
    assert len(spared) == len(norms) + len(biases) > 0
    asked = {name for name in case.params if not name.endswith("sora_g")}
    assert {name for name in asked if not case.model.architecture.decayed(name)} == spared
