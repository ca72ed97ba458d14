"""An implementation as the checks see it: one dtype, canonical layouts, results whose form has been verified.

Some capabilities follow from others.  Where an implementation lacks one of these, the subject derives it: the threshold
map from a gate step without a gradient, a gate step from a whole step, gradients from a whole step of SGD.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.bounds import BF16, FP16, TF32, Precision, precision_of
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.implementation import Implementation, Missing, capabilities
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple
from sora_ref.conformance.protocol.storage_layout import grouped, ungrouped
from sora_ref.errors import SoRAError, shown

# What follows from what: capability -> the one it can be derived from.
DERIVED = {"prox": "gate_steps", "gate_steps": "train", "gradients": "train"}
_LOW = {"tf32": TF32, "bf16": BF16, "fp16": FP16}


class Subject:
    """What is checked: an implementation, in one dtype.

    has:      by capability, the method that is called for it: another one where the capability is derived.
    dtype:    of all arrays that the implementation is given.
    choices:  what the implementation declares.
    believed: whether the implementation is judged by the low precision that it declares, where it declares one.
    changed:  a sentence for every call so far that changed an argument in place; SORA-LINEAR-5 asks.
    """

    def __init__(self, implementation: Implementation, dtype: str, *, believed: bool = True) -> None:
        self.implementation, self.dtype, self.believed = implementation, dtype, believed
        own = capabilities(implementation)
        self.choices: Choices = implementation.choices
        self.changed: list[str] = []
        self.has: dict[str, str] = {name: name for name in own}
        for name, source in reversed(DERIVED.items()):
            if not implementation.gated and name != "gradients":
                continue  # no gate moves
            if name not in own and source in self.has and (name != "gradients" or self.choices.weights == "sgd"):
                self.has[name] = self.has[source]

    @property
    def name(self) -> str:
        """What reports call the implementation."""
        return self.implementation.name or type(self.implementation).__name__

    @property
    def precision(self) -> Precision:
        """The arithmetic it is judged by: the dtype's, or the low one that it declares."""
        own = precision_of(np.empty(0, self.dtype))
        if self.implementation.precision is None or not self.believed:
            return own
        word, _, stored = self.implementation.precision.partition(",")
        if word not in _LOW or stored.strip() not in ("", "stored"):
            expected = ", ".join(_LOW)
            precision = shown(self.implementation.precision)
            raise SoRAError(f"{self.name} declares precision {precision}: expected one of {expected}")
        return _LOW[word].stored() if stored else _LOW[word]

    # --- the linear map ---

    def forward(self, layer: Layer, x: Floats) -> Floats:
        """See `Implementation.forward`."""
        inner, x_ = self._given(layer, x)
        return self._output(self._call("forward", inner, x_), layer, x)

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:
        """See `Implementation.training_forward`."""
        inner, x_ = self._given(layer, x)
        return self._output(self._call("training_forward", inner, x_, p, seed), layer, x)

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> dict[str, Floats]:
        """See `Implementation.gradients`; "dx" is absent where they come from whole steps."""
        if self.has["gradients"] != "gradients":
            return self._gradients_of_a_step(layer, x, dy)
        inner, x_, dy_ = self._given(layer, x, dy)
        return self._grads(self._call("gradients", inner, x_, dy_), layer, x)

    def training_gradients(self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int) -> dict[str, Floats]:
        """See `Implementation.training_gradients`."""
        inner, x_, dy_ = self._given(layer, x, dy)
        return self._grads(self._call("training_gradients", inner, x_, dy_, p, seed), layer, x)

    def _gradients_of_a_step(self, layer: Layer, x: Floats, dy: Floats) -> dict[str, Floats]:
        """θ − θ' of one SGD step with learning rate 1 and no threshold."""
        after = self.train(layer, x[None], dy[None], Plan((1.0, 1.0), 1.0, 0.0))[0]
        before = layer.adapter
        return {"dA": before.A - after.A, "dg": before.g - after.g, "dB": before.B - after.B}

    # --- gates and training ---

    def prox(self, v: Floats, xi: float) -> Floats:
        """See `Implementation.prox`."""
        if self.has["prox"] == "prox":
            return self._array("prox", self._call("prox", v.copy(), xi), v.shape)
        lr = 1.0  # then ξ, λ and η·λ are one number
        rate = {"xi": xi, "lr-lambda": xi / lr}.get(self.choices.amount)
        if rate is None:
            raise Missing("prox")  # the map of a rule in Adam's metric shows in no step of its own
        after: Floats = self.gate_steps(v, np.zeros((1, *v.shape), v.dtype), Plan((lr, lr), lr, rate))[0]
        return after

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:
        """See `Implementation.gate_steps`."""
        if self.has["gate_steps"] == "gate_steps":
            after = self._call("gate_steps", g.copy(), grads.copy(), plan)
            return self._array("gate_steps", after if hasattr(after, "shape") else list(after), grads.shape)
        if len(grads) != 1:
            raise Missing("gate_steps")  # whole steps show only the first step of a gate alone
        layout, r = self.implementation.layout, len(g)
        if r % layout.groups:
            raise Missing("gate_steps")  # of gates that do not fill the slices
        lead = () if layout.sites == 1 else (layout.sites,)
        one = np.eye(r, dtype=g.dtype)  # one row of ones through A = B = 1 has dg = dy
        layer = Layer(np.zeros((*lead, r, r), g.dtype), None, one, g, one, 1.0)
        dy = np.zeros((1, *lead, 1, r), g.dtype)
        dy[(0,) * (1 + len(lead))] = grads
        return self.train(layer, np.ones((1, *lead, 1, r), g.dtype), dy, plan)[0].g[None]

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:
        """See `Implementation.penalty`."""
        return float(self._call("penalty", [g.copy() for g in gates], lam))

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> list[Triple]:
        """See `Implementation.train`."""
        inner, xs_, dys_ = self._given(layer, xs, dys, steps=True)
        after = list(self._call("train", inner, xs_, dys_, plan))
        if len(after) != len(xs):
            raise Refusal(f"train gives {len(after)} states: expected one after each of {len(xs)} steps")
        return [self._triple(state, layer) for state in after]

    def accumulate(self, layer: Layer, microbatches: Sequence[tuple[Floats, Floats]]) -> dict[str, Floats]:
        """See `Implementation.accumulate`."""
        given = [self._given(layer, x, dy) for x, dy in microbatches]
        found = self._call("accumulate", given[0][0], [(x, dy) for _, x, dy in given])
        return self._grads(found, layer, None)

    def numbers(self, capability: str, *arguments: Any) -> list[float]:
        """What a schedule gives."""
        return [float(value) for value in self._call(capability, *arguments)]

    def lists(self, capability: str, *arguments: Any) -> list[list[float]]:
        """What a schedule of stages gives."""
        return [[float(value) for value in values] for values in self._call(capability, *arguments)]

    # --- what is left ---

    def prune(self, layer: Layer) -> Layer:
        """See `Implementation.prune`."""
        (inner,) = self._given(layer)
        left = self._outer(self._call("prune", inner), layer)
        for name in ("A", "g", "B"):
            part = getattr(left, name)
            if part is not None and np.asarray(part).dtype != self.dtype:
                found = np.asarray(part).dtype
                raise Refusal(f"what is left of {name} has dtype {found}: expected {self.dtype}", quantity=name)
        return left

    def merge(self, layer: Layer) -> Floats:
        """See `Implementation.merge`."""
        (inner,) = self._given(layer)
        return self._weight("merge", self._call("merge", inner), layer)

    def unmerge(self, layer: Layer) -> Floats:
        """See `Implementation.unmerge`."""
        (inner,) = self._given(layer)
        return self._weight("unmerge", self._call("unmerge", inner), layer)

    def refuse_merge(self, layer: Layer, case: str) -> bool:
        """Whether it refuses."""
        (inner,) = self._given(layer)
        try:
            self.implementation.refuse_merge(inner, case)
        except Missing:
            raise
        except Exception:  # whatever it raises is a refusal
            return True
        return False

    def count(self, layers: Mapping[str, Layer]) -> int:
        """See `Implementation.count`."""
        return operator.index(self._call("count", {name: self._given(layer)[0] for name, layer in layers.items()}))

    def ranks(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        """See `Implementation.ranks`."""
        found = self._call("ranks", {name: self._given(layer)[0] for name, layer in layers.items()})
        return {name: operator.index(rank) for name, rank in found.items()}

    def store(self, layer: Layer, folder: Path) -> Layer:
        """The layer after `Implementation.save` and `Implementation.load`."""
        (inner,) = self._given(layer)
        self._call("save", inner, folder)
        return self._outer(self._call("load", folder, inner.W0, inner.b), layer)

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:
        """See `Implementation.initial`."""
        found = self._call("initial", module, out, in_, r, alpha, seed)
        zeros = np.zeros
        like = Layer(zeros((out, in_)), zeros(out), zeros((r, in_)), zeros(r), zeros((out, r)), 1.0)
        return self._outer(found, like)

    # --- layouts ---

    def _given(self, layer: Layer, *rows: Floats, steps: bool = False) -> tuple[Any, ...]:
        """The layer and arrays of rows as the implementation stores them, all copies."""
        if not self.implementation.gated:
            layer = layer._replace(g=None)
        layout = self.implementation.layout
        W0, A, B = layer.W0, layer.A, layer.B
        if layout.groups > 1:
            B = ungrouped(B, layout.groups)
        if layout.transposed:
            W0, A, B = np.swapaxes(W0, -1, -2), A.T, B.T
        g, b = layer.g, layer.b
        inner = Layer(
            np.array(W0, order="C"),
            None if b is None else b.copy(),
            np.array(A, order="C"),
            None if g is None else g.copy(),
            np.array(B, order="C"),
            layer.s,
        )
        return (inner, *(np.array(each, order="C") for each in rows))

    def _outer(self, layer: Layer, like: Layer) -> Layer:
        """A layer of the implementation's in canonical layout."""
        if not isinstance(layer, Layer):
            raise Refusal(f"a {type(layer).__name__} came back: expected a Layer")
        layout = self.implementation.layout
        W0, A, B = layer.W0, np.asarray(layer.A), np.asarray(layer.B)
        if layout.transposed:
            W0, A, B = np.swapaxes(W0, -1, -2), A.T, B.T
        if layout.groups > 1:
            B = grouped(B, layout.groups)
        return layer._replace(W0=W0, A=A, g=None if layer.g is None else np.asarray(layer.g), B=B)

    def _triple(self, state: Any, layer: Layer) -> Triple:
        A, g, B = state
        if self.implementation.layout.transposed:
            A, B = np.asarray(A).T, np.asarray(B).T
        if self.implementation.layout.groups > 1:
            B = grouped(np.asarray(B), self.implementation.layout.groups)
        expected = layer.adapter
        return Triple(
            self._array("A", A, expected.A.shape),
            self._array("g", np.ones_like(expected.g) if g is None else g, expected.g.shape),
            self._array("B", B, expected.B.shape),
        )

    def _output(self, y: Any, layer: Layer, x: Floats) -> Floats:
        return self._array("y", y, (*x.shape[:-1], layer.W0.shape[-2]))

    def _weight(self, name: str, W: Any, layer: Layer) -> Floats:
        W = np.asarray(W)
        return self._array(name, np.swapaxes(W, -1, -2) if self.implementation.layout.transposed else W, layer.W0.shape)

    def _grads(self, found: Mapping[str, Any], layer: Layer, x: Floats | None) -> dict[str, Floats]:
        layout, branch = self.implementation.layout, layer.adapter
        found = found._asdict() if hasattr(found, "_asdict") else found
        shapes: dict[str, tuple[int, ...]] = {"dA": branch.A.shape, "dg": branch.g.shape, "dB": branch.B.shape}
        if not self.implementation.gated:
            del shapes["dg"]
        if x is not None:
            shapes["dx"] = x.shape
        grads = {}
        for name, shape in shapes.items():
            if found.get(name) is None:
                raise Refusal(f"the gradients have no {name}: expected {', '.join(shapes)}")
            grad = np.asarray(found[name])
            if layout.transposed and name in ("dA", "dB"):
                grad = grad.T
            if layout.groups > 1 and name == "dB":
                grad = grouped(grad, layout.groups)
            grads[name] = self._array(name, grad, shape)
        return grads

    def _array(self, name: str, value: Any, shape: Sequence[int]) -> Floats:
        """The value, if it is an array of this shape in the dtype of the run."""
        x = np.asarray(value)
        if x.shape != tuple(shape):
            raise Refusal(f"{name} has shape {x.shape}: expected {tuple(shape)}", quantity=name)
        if x.dtype != self.dtype:
            raise Refusal(f"{name} has dtype {x.dtype}: expected {self.dtype}, that of its arguments", quantity=name)
        return x

    def _call(self, capability: str, *arguments: Any) -> Any:
        """What the implementation's method returns; Refusal where it raises, or where an argument has changed."""
        before = [each.tobytes() for each in _arrays(arguments)]
        try:
            result = getattr(self.implementation, capability)(*arguments)
        except (Refusal, Missing):
            raise
        except (Exception, SystemExit) as error:
            raise Refusal(f"{capability} raises {type(error).__name__}: {error}") from error
        after = [each.tobytes() for each in _arrays(arguments)]
        if before != after:
            changed = [i for i, (one, two) in enumerate(zip(before, after, strict=True)) if one != two]
            self.changed.append(f"{capability} changes array {changed[0]} of its arguments: expected them untouched")
        return result


def _arrays(values: Any) -> list[Floats]:
    if isinstance(values, np.ndarray):
        return [values]
    if isinstance(values, Mapping):
        return _arrays(list(values.values()))
    if isinstance(values, list | tuple):
        return [array for value in values for array in _arrays(value)]
    return []
