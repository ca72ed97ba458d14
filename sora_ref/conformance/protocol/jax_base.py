"""A base implementation for JAX: show a pure function and an update rule, and the rest follows.

    class Mine(JaxImplementation):
        def apply(self, params, x):
            return sora_linear(params["W0"], params["b"], params["A"], params["g"], params["B"], params["s"], x)

        def update(self, trained, grads, state, plan, t):
            return prox_sgd(trained, grads, lr=plan.lrs[t - 1], lam=plan.strength), state

From `apply` follow forward and gradients; from `apply_in_training` the two training capabilities; from `update`
gate_steps, and with `apply` train.  The loop around them is this file's; whoever means to show one of their own
overrides `loss` or `clip`, or the capability itself.

JAX is imported when it is first used.  Every capability, the subclass's own too, runs with float64 enabled where the
arrays it is given are float64 or there are none, and disabled where they are float32; JAX is left as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from sora_ref.conformance.protocol.implementation import CAPABILITIES, Implementation, Missing
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple

Params = dict[str, Any]  # "W0", "b" (or None), "A", "g" (or None) and "B", JAX arrays, and "s", a Python float

# What this base derives, and which of the user's methods it derives it from.
_NEEDS = {
    "forward": {"apply"},
    "gradients": {"apply"},
    "training_forward": {"apply_in_training"},
    "training_gradients": {"apply_in_training"},
    "gate_steps": {"update"},
    "train": {"apply", "update"},
}


class JaxImplementation(Implementation):
    """Subclass it with `apply`, and with `update` where there is a training step to show; see the example above."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in list(vars(cls).items()):
            if name in CAPABILITIES and value is not vars(Implementation)[name]:
                setattr(cls, name, _in_width(value))

    # --- what the user overrides ---

    def apply(self, params: Params, x: Any) -> Any:
        """The y of a layer in evaluation; differentiated by JAX in the arrays of `params`, and in x."""
        raise Missing("apply")

    def apply_in_training(self, params: Params, x: Any, p: float, key: Any) -> Any:
        """The y of a layer with dropout p, drawn from this key."""
        raise Missing("apply_in_training")

    def start(self, trained: Params, plan: Plan) -> Any:
        """The optimiser's state before the first step; `trained` has "A", "g" and "B", as everywhere below."""
        return None

    def update(self, trained: Params, grads: Params, state: Any, plan: Plan, t: int) -> tuple[Params, Any]:
        """Parameters and state after step t = 1, 2, …, whose learning rate is plan.lrs[t − 1]."""
        raise Missing("update")

    def loss(self, params: Params, x: Any, dy: Any) -> Any:
        """⟨dy, y⟩, and whatever else your training loss has."""
        return (dy * self.apply(params, x)).sum()

    def clip(self, grads: Params, limit: float) -> Params:
        """The gradients, scaled; where this is not overridden, clipping is not looked at."""
        raise Missing("clip")

    # --- for whoever overrides a capability ---

    def params(self, layer: Layer) -> Params:
        """The layer's arrays in JAX; inside a capability only, where their dtype is enabled."""
        import jax.numpy as jnp

        arrays = {name: getattr(layer, name) for name in ("W0", "b", "A", "g", "B")}
        return {name: None if x is None else jnp.asarray(x) for name, x in arrays.items()} | {"s": layer.s}

    def layer(self, params: Params) -> Layer:
        """The same in NumPy."""
        arrays: dict[str, Any] = {name: None if x is None else np.asarray(x) for name, x in params.items()}
        return Layer(**arrays | {"s": float(params["s"])})

    def declared(self) -> list[str]:
        """The capabilities: what the subclass overrides, and what follows from the methods it gives."""
        mine = type(self)
        hooks = {name for name in ("apply", "apply_in_training", "update") if _differs(mine, JaxImplementation, name)}
        return [
            name
            for name in CAPABILITIES
            if _differs(mine, Implementation, name)
            and (_differs(mine, JaxImplementation, name) or _NEEDS[name] <= hooks)
            and (self.gated or name != "gate_steps")
        ]

    # --- the capabilities derived ---

    def forward(self, layer: Layer, x: Floats) -> Floats:  # noqa: D102 - as in Implementation, here and below
        import jax.numpy as jnp

        return _array(self.apply(self.params(layer), jnp.asarray(x)))

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:  # noqa: D102
        return self._pulled(layer, x, dy, self.apply)

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:  # noqa: D102
        import jax

        return _array(self.apply_in_training(self.params(layer), jax.numpy.asarray(x), p, jax.random.key(seed)))

    def training_gradients(  # noqa: D102
        self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int
    ) -> Mapping[str, Floats]:
        import jax

        return self._pulled(layer, x, dy, lambda params, x: self.apply_in_training(params, x, p, jax.random.key(seed)))

    def _pulled(self, layer: Layer, x: Floats, dy: Floats, function: Callable[[Params, Any], Any]) -> dict[str, Floats]:
        import jax

        params = self.params(layer)
        y, pull = jax.vjp(lambda trained, x: function(params | trained, x), _trained(params), jax.numpy.asarray(x))
        grads, dx = pull(jax.numpy.asarray(dy, y.dtype))
        return {"dx": _array(dx), **{f"d{name}": _array(grad) for name, grad in grads.items()}}

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:  # noqa: D102
        import jax.numpy as jnp

        r, groups = len(g), self.layout.groups
        A, B = np.ones((r, 1), g.dtype), np.ones((groups, r // groups), g.dtype)
        if self.layout.transposed:
            A, B = A.T, B.T
        still = {"A": jnp.zeros_like(A), "B": jnp.zeros_like(B)}
        trained = {"A": jnp.asarray(A), "g": jnp.asarray(g), "B": jnp.asarray(B)}
        states = self._run(trained, plan, len(grads), lambda trained, t: still | {"g": jnp.asarray(grads[t])})
        return np.stack([state.g for state in states])

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:  # noqa: D102
        import jax

        params = self.params(layer)

        def differentiate(trained: Params, t: int) -> Params:
            x, dy = jax.numpy.asarray(xs[t]), jax.numpy.asarray(dys[t])
            grads: Params = jax.grad(lambda trained: self.loss(params | trained, x, dy))(trained)
            return grads if plan.clip is None else self.clip(grads, plan.clip)

        return self._run(_trained(params), plan, len(xs), differentiate)

    def _run(
        self, trained: Params, plan: Plan, count: int, differentiate: Callable[[Params, int], Params]
    ) -> list[Triple]:
        """The states after each of `count` steps."""
        state, states = self.start(trained, plan), []
        for t in range(count):
            trained, state = self.update(trained, differentiate(trained, t), state, plan, t + 1)
            states.append(Triple(*(np.asarray(trained[name]) if name in trained else None for name in ("A", "g", "B"))))  # type: ignore[arg-type]
        return states


def _array(x: Any) -> Floats:
    """The numbers as NumPy has them: half precisions as float32."""
    return np.asarray(x.astype("float32") if x.dtype.itemsize == 2 else x)


def _trained(params: Params) -> Params:
    return {name: params[name] for name in ("A", "g", "B") if params[name] is not None}


def _differs(mine: type, base: type, name: str) -> bool:
    return getattr(mine, name) is not getattr(base, name)


def _width(arguments: Any) -> AbstractContextManager[Any]:
    """The context in which JAX has float64 exactly where these arguments need it."""
    import jax

    dtypes = {leaf.dtype for leaf in jax.tree_util.tree_leaves(arguments) if isinstance(leaf, np.ndarray)}
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # before JAX 0.8
    context: AbstractContextManager[Any] = enable(not dtypes or np.dtype("float64") in dtypes)
    return context


def _in_width(method: Any) -> Any:
    """The method, or static method, run in the context that its arguments need."""
    if isinstance(method, staticmethod):
        return staticmethod(_in_width(method.__func__))

    @functools.wraps(method)
    def run(*arguments: Any) -> Any:
        with _width(arguments):
            return method(*arguments)

    return run


for _name in _NEEDS:
    setattr(JaxImplementation, _name, _in_width(vars(JaxImplementation)[_name]))
