"""The specification itself as an implementation, on every backend at hand: the kit checks it as it checks others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import sora_ref as sr
from sora_ref.backends import Array, Backend, DeviceError, get, names
from sora_ref.conformance.engine.outcome import Report
from sora_ref.conformance.engine.runner import EXAMPLES
from sora_ref.conformance.frontends.call import check_implementation
from sora_ref.conformance.protocol.choices import VARIANTS, Choices
from sora_ref.conformance.protocol.implementation import Implementation, Missing
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple
from sora_ref.gradients import combine_microbatches
from sora_ref.linear import LinearGrads
from sora_ref.names import pack, pack_gradients, unpack
from sora_ref.step import Rates, Recipe, initial_state, training_step

_NAMES = ("A", "g", "B")
_FILE = "layer.safetensors"


class Reference(Implementation):
    """`sora_ref`'s own functions on one backend, with one gate rule."""

    def __init__(self, backend: Backend, rule: str = "paper") -> None:
        self.backend = backend
        self._choices = VARIANTS[rule]
        self._name = f"sora_ref on {backend.name}, rule {rule}"

    name: ClassVar[str] = property(lambda self: self._name)  # type: ignore[assignment]
    choices: ClassVar[Choices] = property(lambda self: self._choices)  # type: ignore[assignment]

    # --- in and out ---

    def _in(self, x: Floats) -> Array:
        return self.backend.from_host(x)

    def _out(self, x: Array, like: Floats) -> Floats:
        """The array on the host in the dtype of `like`; rationals are rounded once."""
        return np.asarray(self.backend.to_host(x)).astype(like.dtype)

    def _number(self, value: float) -> Any:
        """A scalar: a rational among rationals."""
        return self.backend.from_host(np.array([value]))[0] if self.backend.name == "exact" else value

    def _branch(self, layer: Layer) -> sr.SoRA:
        A, g, B, s = layer.adapter
        return sr.SoRA(self._in(A), self._in(g), self._in(B), self._number(s))

    def _layer(self, layer: Layer) -> tuple[Array, Array | None, sr.SoRA]:
        return self._in(layer.W0), None if layer.b is None else self._in(layer.b), self._branch(layer)

    def _back(self, branch: sr.SoRA, layer: Layer) -> Layer:
        A, g, B = (self._out(part, layer.A) for part in branch[:3])
        return layer._replace(A=A, g=g, B=B, s=float(branch.s))

    # --- the linear map ---

    def forward(self, layer: Layer, x: Floats) -> Floats:  # noqa: D102 - as in Implementation, here and below
        return self._out(sr.sora_linear_forward(self._in(x), *self._layer(layer))[0], x)

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:  # noqa: D102
        return self._backward(layer, x, dy, None, 0.0)

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:  # noqa: D102
        keep = self._mask(x, p, seed)
        y, _ = sr.sora_linear_forward(self._in(x), *self._layer(layer), keep=keep, p=self._number(p))
        return self._out(y, x)

    def training_gradients(  # noqa: D102
        self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int
    ) -> Mapping[str, Floats]:
        return self._backward(layer, x, dy, self._mask(x, p, seed), p)

    def _mask(self, x: Floats, p: float, seed: int) -> Array:
        return self._in(sr.generator(seed, "dropout").random(x.shape) >= p)

    def _backward(self, layer: Layer, x: Floats, dy: Floats, keep: Array | None, p: float) -> dict[str, Floats]:
        p = self._number(p)
        _, cache = sr.sora_linear_forward(self._in(x), *self._layer(layer), keep=keep, p=p)
        return self._grads(sr.sora_linear_backward(self._in(dy), cache), x)

    def _grads(self, grads: LinearGrads, like: Floats) -> dict[str, Floats]:
        return {name: self._out(grad, like) for name, grad in grads._asdict().items() if grad is not None}

    # --- gates and training ---

    def prox(self, v: Floats, xi: float) -> Floats:  # noqa: D102
        if self.backend.name == "exact" and not np.isfinite(v).all():
            return get("numpy").to_host(self.choices.rule().threshold(v, xi))  # no rational is NaN
        return self._out(self.choices.rule().threshold(self._in(v), self._number(xi)), v)

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:  # noqa: D102
        rule, gate = self.choices.rule(), self._in(g)
        moments, after = sr.zero_moments(gate), []
        for t, grad in enumerate(grads, 1):
            lr, strength = self._number(plan.lrs[t - 1]), self._number(plan.strength)
            gate, moments = sr.gate_update(rule, gate, self._in(grad), moments, t, lr, strength)
            after.append(self._out(gate, g))
        return np.array(after)

    def penalty(self, gates: Sequence[Floats], lam: float) -> float:  # noqa: D102
        value = sr.l1_value([self._in(g) for g in gates], self._number(lam))
        return float(np.asarray(self.backend.to_host(value))) if hasattr(value, "shape") else float(value)

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:  # noqa: D102
        if self.backend.name == "exact" and plan.clip is not None:
            raise Missing("clipping, whose norm is no rational number")
        optimiser, rule = self.choices.optimiser(self._number(plan.weight_decay)), self.choices.rule()
        recipe = Recipe(optimiser, rule, plan.clip, decayed=lambda name: True)  # A and B; gates are not asked about
        branch, after = self._branch(layer), []
        state = initial_state(pack("m", branch))
        W0, b, _ = self._layer(layer)
        for t, (x, dy) in enumerate(zip(xs, dys, strict=True)):
            _, cache = sr.sora_linear_forward(self._in(x), W0, b, unpack(state.params, "m", branch.s))
            grads = sr.sora_linear_backward(self._in(dy), cache)
            rates = Rates(*(self._number(value) for value in (plan.lrs[t], plan.lrs[t], plan.strength)))
            state, _ = training_step(state, pack_gradients("m", grads), rates, recipe)
            after.append(Triple(*(self._out(tensor, xs) for tensor in unpack(state.params, "m", branch.s)[:3])))
        return after

    def accumulate(  # noqa: D102
        self, layer: Layer, microbatches: Sequence[tuple[Floats, Floats]]
    ) -> Mapping[str, Floats]:
        W0, b, branch = self._layer(layer)
        summed = []
        for x, dy in microbatches:
            _, cache = sr.sora_linear_forward(self._in(x), W0, b, branch)
            grads = sr.sora_linear_backward(self._in(dy), cache, dx=False)
            summed.append({name: getattr(grads, name) for name in ("dA", "dg", "dB")})
        examples = sum(len(x) for x, _ in microbatches)
        mean = combine_microbatches(summed, self._number(examples) if self.backend.name == "exact" else examples)
        return {name: self._out(grad, layer.A) for name, grad in mean.items()}

    # --- schedules ---

    def learning_rates(self, peak: float, total: int, warmup: int) -> Sequence[float]:  # noqa: D102
        return list(map(sr.schedules.linear_warmup_decay(peak, total, warmup), range(1, total + 1)))

    def stage_values(self, kind: str, start: float, stop: float, stages: int) -> Sequence[float]:  # noqa: D102
        return sr.schedules.stage_values(kind, start, stop, stages)

    def algorithm_1(self, xi0: float, xi_max: float, delta: float) -> Sequence[float]:  # noqa: D102
        return sr.schedules.algorithm_1_values(xi0, xi_max, delta)

    def stage_rates(  # noqa: D102
        self, values: Sequence[float], peak: float, total: int, warmup: int
    ) -> Sequence[Sequence[float]]:
        rates: list[Sequence[float]] = []

        def train(state: None, stage: sr.Stage) -> None:
            rates.append(self.learning_rates(peak, total, warmup))

        plan = [sr.Stage(k, xi) for k, xi in enumerate(values)]
        for _ in sr.sparsify(None, plan, train, lambda state: sr.Performance(0, 1.0, 1.0)):
            pass
        return rates

    def initial(self, module: str, out: int, in_: int, r: int, alpha: float, seed: int) -> Layer:  # noqa: D102
        A, g, B, s = sr.initial_adapter(seed, module, out, in_, r, alpha, dtype="float64")
        return Layer(np.zeros((out, in_)), np.zeros(out), A, g, B, s)

    # --- what is left ---

    def prune(self, layer: Layer) -> Layer:  # noqa: D102
        branch = self._branch(layer)
        return self._back(sr.prune(branch, sr.kept_components(branch.g)), layer)

    def merge(self, layer: Layer) -> Floats:  # noqa: D102
        return self._out(sr.merge(self._in(layer.W0), self._branch(layer)).W, layer.W0)

    def unmerge(self, layer: Layer) -> Floats:  # noqa: D102
        merged = sr.merge(self._in(layer.W0), self._branch(layer), keep_base=False)
        return self._out(sr.unmerge(merged), layer.W0)

    def refuse_merge(self, layer: Layer, case: str) -> None:  # noqa: D102
        W0, branch = self._in(layer.W0), self._branch(layer)
        merge: dict[str, Callable[[], Any]] = {
            "again": lambda: sr.merge(sr.merge(W0, branch), branch),
            "tied": lambda: sr.merge(W0, branch, others={"the other layer": W0}),
            "dropout": lambda: sr.merge(W0, branch, dropout=0.1, training=True),
        }
        merge[case]()

    def count(self, layers: Mapping[str, Layer]) -> int:  # noqa: D102
        return sr.count_parameters({name: self._branch(layer) for name, layer in layers.items()}, hidden=1).retained

    def ranks(self, layers: Mapping[str, Layer]) -> Mapping[str, int]:  # noqa: D102
        return sr.module_ranks({name: self._branch(layer) for name, layer in layers.items()})

    def save(self, layer: Layer, folder: Path) -> None:  # noqa: D102
        from sora_ref.storage.sealed import sealed_bytes

        tensors = {name: getattr(layer, name) for name in _NAMES}
        (folder / _FILE).write_bytes(sealed_bytes(tensors, {"s": layer.s}))

    def load(self, folder: Path, W0: Floats, b: Floats | None) -> Layer:  # noqa: D102
        from sora_ref.storage.sealed import read_sealed

        tensors, facts = read_sealed(folder / _FILE, "a layer that was saved")
        return Layer(W0, b, **tensors, s=facts["s"])


def references() -> tuple[list[Reference], dict[str, str]]:
    """The specification on every backend that can run here, and why each of the others cannot."""
    found, absent = [], {}
    for name in names():
        try:
            backend = get(name)
        except ImportError as error:
            absent[name] = f"{error.name} is not installed"
            continue
        except DeviceError as error:
            absent[name] = str(error)
            continue
        except Exception as error:
            absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        rules = ["paper"] if name == "exact" else [rule for rule in VARIANTS if rule != "released"]
        found += [Reference(backend, rule) for rule in (rules if name == "numpy" else rules[:2])]
    return found, absent


def self_check(
    say: Callable[[str], None], *, level: Any = "full", seed: int = 0, max_examples: int = EXAMPLES
) -> list[Report]:
    """The reports of the specification on every backend; says a line about each, and about those that are absent."""
    found, absent = references()
    reports = []
    for reference in found:
        report = check_implementation(reference, level=level, seed=seed, max_examples=max_examples)
        counts = report.counts()
        verdict = "holds" if report.holds else "does not hold"
        numbers = f"{counts['passed']} passed, {len(report.shortcomings())} not, {counts['skipped']} skipped"
        say(f"{reference.name}: {verdict}; {numbers}")
        reports.append(report)
    for name, reason in absent.items():
        say(f"sora_ref on {name}: not run, {reason}")
    return reports
