"""The tensors of a checkpoint, held against each other and against the model they are for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sora_ref.errors import SoRAError, printable, shown
from sora_ref.models import OUTPUT_LAYERS, Classifier
from sora_ref.names import adapter_names, is_adapter, module_of
from sora_ref.optim import Moments
from sora_ref.preconditions import require

Arrays = Mapping[str, np.ndarray]
_PARTS = ("params", "m", "v")


def split(where: str, tensors: Arrays, moments: bool) -> tuple[dict[str, np.ndarray], dict[str, Moments] | None]:
    """The parameters by name, and their moments where the checkpoint says that it holds some.

    tensors: by key, params/NAME, m/NAME and v/NAME.  Raises SoRAError, beginning with `where`, for another key, for a
    moment that is missing, one too many, or of another shape or dtype than its parameter.
    """
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    for key, array in tensors.items():
        part, _, name = key.partition("/")
        require(part in parts and bool(name), f"{where}: a tensor {shown(key)}: expected params/, m/ or v/ and a name")
        parts[part][name] = array
    params = parts["params"]
    for part in ("m", "v"):
        names = params.keys() if moments else set[str]()
        lost, more = sorted(names - parts[part].keys()), sorted(parts[part].keys() - names)
        require(not lost, f"{where}: no tensor {part}/{_first(lost)}: expected both moments of every parameter")
        require(not more, f"{where}: a tensor {part}/{_first(more)}: expected moments of its parameters alone")
        for name, array in parts[part].items():
            same = (array.shape, array.dtype) == (params[name].shape, params[name].dtype)
            require(same, f"{where}: {part}/{printable(name)} is {_form(array)}: expected {_form(params[name])}")
    found = {name: Moments(parts["m"][name], parts["v"][name]) for name in parts["m"]}
    return params, found if moments else None


def require_consistent(where: str, params: Arrays, scales: Mapping[str, float], outputs: int) -> None:
    """SoRAError, beginning with `where`, unless the parameters are adapters and a head that could be a model's.

    Every module with a scale has A (r, in), B (out, r) and, where it is gated, g (r,); no other module has any.  The
    head ends in a weight (outputs, d) with a bias (outputs,), under one of `OUTPUT_LAYERS`.
    """
    known = {name for module in scales for name in adapter_names(module)}
    for name in params:
        strange = is_adapter(name) and name not in known
        require(
            not strange, f"{where}: a tensor {shown(name)}, but no scale for it: expected adapters with their scale"
        )
    for module in scales:
        names, name = adapter_names(module), printable(module)
        A, g, B = (params.get(tensor) for tensor in names)
        if A is None or B is None:
            lost = printable(names.A if A is None else names.B)
            raise SoRAError(f"{where}: no tensor {lost}: expected A and B of every adapter")
        require(A.ndim == B.ndim == 2, f"{where}: {name} has A {A.shape} and B {B.shape}: expected matrices")
        r = A.shape[0]
        require(B.shape[1] == r, f"{where}: {name} has A {A.shape} and B {B.shape}: expected (r, in) and (out, r)")
        require(g is None or g.shape == (r,), f"{where}: {name} has g {g is not None and g.shape}: expected ({r},)")
    out = next((module for module in OUTPUT_LAYERS if f"{module}.weight" in params), OUTPUT_LAYERS[0])
    weight, bias = params.get(f"{out}.weight"), params.get(f"{out}.bias")
    if weight is None or bias is None:
        lost = f"{out}.weight" if weight is None else f"{out}.bias"
        raise SoRAError(f"{where}: no tensor {lost}: expected a head")
    sound = weight.ndim == 2 and len(weight) == outputs and bias.shape == (outputs,)
    require(sound, f"{where}: the head is {weight.shape} and {bias.shape}: expected ({outputs}, d) and ({outputs},)")


def require_fits(where: str, params: Arrays, model: Classifier, modules: Mapping[str, float]) -> None:
    """SoRAError, beginning with `where`, unless `params` are parameters of this model, adapters of any rank included.

    modules: those that the configuration adapts; the keys alone count.
    """
    shapes = model.shapes
    for name, array in params.items():
        module = module_of(name)
        names = adapter_names(module)
        if name in names:
            known = module in modules
            require(known, f"{where}: an adapter of {shown(module)}: expected one of a module that is adapted")
            out, in_ = shapes[f"{module}.weight"]
            expected = {names.A: (array.shape[0], in_), names.g: array.shape, names.B: (out, array.shape[-1])}[name]
        else:
            require(name in shapes, f"{where}: a tensor {shown(name)}: expected parameters of the model alone")
            expected = shapes[name]
        require(array.shape == expected, f"{where}: {name} has shape {array.shape}: expected {expected}")
    lost = sorted(module for module in modules if adapter_names(module).A not in params)
    require(not lost, f"{where}: no adapter of {_first(lost)}: expected one of every module that is adapted")


def _first(names: list[str]) -> str:
    return printable(names[0]) if names else ""


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"
