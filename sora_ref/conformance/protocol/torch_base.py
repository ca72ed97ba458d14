"""A base implementation for PyTorch: show a module and an optimiser, and the rest follows.

    class Mine(TorchImplementation):
        parameters = {"W0": "base.weight", "b": "base.bias", "A": "lora_A.weight", "g": "gate", "B": "lora_B.weight"}

        def module(self, layer):
            return SoRALinear(layer.W0.shape[1], layer.W0.shape[0], r=len(layer.A), scale=layer.s)

        def optimizer(self, module, plan):
            return MyOptimizer(module.parameters(), lr=plan.peak, lam=plan.strength)

From `module` follow forward, gradients and accumulate, and the two training capabilities where it has an `nn.Dropout`;
from `module` and `optimizer`, train and gate_steps.  The loop around them (loss, backward, step, learning rate) is this
file's; whoever means to show a loop of their own overrides `step`, `loss` or `clip`, or the capability itself.

PyTorch is imported when it is first used.  What is derived runs on one thread: the problems are tiny, and on a busy
machine threads that wait for each other take ten times as long.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sora_ref.conformance.protocol.implementation import CAPABILITIES, Implementation, Missing
from sora_ref.conformance.protocol.layer import Floats, Layer, Plan, Triple

if TYPE_CHECKING:
    import torch

# What this base derives, and which of the user's methods it derives it from.
_FROM_MODULE = ("forward", "gradients", "accumulate")
_FROM_DROPOUT = ("training_forward", "training_gradients")
_FROM_OPTIMIZER = ("gate_steps", "train")


class TorchImplementation(Implementation):
    """Subclass it with `module`, and with `optimizer` where there is one to show; see the example above.

    parameters: where the module keeps W0, b, A, g and B, as dotted names.  They are filled before the module is used,
                and A, g and B are read there; leave out what `module` sets itself.  The gate may have any shape of r
                entries, and is not looked for where `gated` is False; the others are as `layout` says.
    """

    parameters: ClassVar[Mapping[str, str]] = {"W0": "weight", "b": "bias", "A": "lora_A", "g": "gate", "B": "lora_B"}

    # --- what the user overrides ---

    def module(self, layer: Layer) -> torch.nn.Module:
        """A module that fits this layer, whose arrays are tensors here; what `parameters` names is filled after."""
        raise Missing("module")

    def optimizer(self, module: torch.nn.Module, plan: Plan) -> Any:
        """An optimiser of the module's A, g and B, built with lr = plan.peak; or it and a scheduler of your own.

        Without a scheduler, the lr of every group is set before each step to the plan's, times what the group began
        with over plan.peak; the group's "initial_lr" is what it began with, as PyTorch's schedulers have it.
        """
        raise Missing("optimizer")

    def step(self, module: torch.nn.Module, optimizer: Any, plan: Plan, t: int) -> None:
        """Step t = 1, 2, …, with the gradients in place: for whoever thresholds the gates outside the optimiser."""
        optimizer.step()

    def loss(self, module: torch.nn.Module, y: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """⟨dy, y⟩, and whatever else your training loss has."""
        return (dy * y).sum()

    def clip(self, module: torch.nn.Module, limit: float) -> None:
        """Scale the gradients, which are in place; where this is not overridden, clipping is not looked at."""
        raise Missing("clip")

    def call(self, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        """y = module(x): override it where more is needed, such as `torch.autocast`, or another device."""
        y: torch.Tensor = module(x)
        return y

    # --- for whoever overrides a capability ---

    def build(self, layer: Layer) -> torch.nn.Module:
        """The module of this layer, filled, in the layer's dtype and in evaluation mode."""
        import torch

        tensors = layer._replace(**{name: tensor(getattr(layer, name)) for name in ("W0", "b", "A", "g", "B")})
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # an initialisation draws, and is written over
            module = self.module(tensors).to(tensors.A.dtype).eval()
            for name, place in self._places().items():
                value, parameter = getattr(tensors, name), _at(module, place)
                if value is None and parameter is not None:
                    value = torch.zeros_like(parameter)  # no bias
                if value is None:
                    continue
                if parameter is None:
                    raise ValueError(f"the module's {place} is None: expected {name}, of shape {tuple(value.shape)}")
                if name == "g" and parameter.numel() == value.numel():
                    value = value.reshape(parameter.shape)
                if parameter.shape != value.shape:
                    shapes = f"{tuple(parameter.shape)}: expected {tuple(value.shape)}"
                    raise ValueError(f"{name}, the module's {place}, has shape {shapes}")
                parameter.copy_(value)
        return module

    def triple(self, module: torch.nn.Module) -> Triple:
        """A, g and B of the module as they are now, copied; g is None where there is none."""
        found = {name: array(parameter).copy() for name, parameter in self._trained(module).items()}
        return Triple(found["A"], found["g"].reshape(-1) if "g" in found else None, found["B"])  # type: ignore[arg-type]

    def layer(self, module: torch.nn.Module, s: float) -> Layer:
        """The layer that the module is now, with W0 and b as `parameters` finds them."""
        W0, b = (_at(module, self.parameters[name]) for name in ("W0", "b"))
        return Layer(array(W0).copy(), None if b is None else array(b).copy(), *self.triple(module), s)

    def branch_gradients(self, module: torch.nn.Module) -> dict[str, Floats]:
        """dA, dg and dB as the module's parameters hold them; zeros where backward left none."""
        trained = self._trained(module)
        grads = {f"d{name}": array(p.grad) if p.grad is not None else 0 * array(p) for name, p in trained.items()}
        return {name: grad.reshape(-1) if name == "dg" else grad for name, grad in grads.items()}

    def _trained(self, module: torch.nn.Module) -> dict[str, Any]:
        places = self._places()
        return {name: _at(module, places[name]) for name in ("A", "g", "B") if name in places}

    def _places(self) -> dict[str, str]:
        return {name: place for name, place in self.parameters.items() if self.gated or name != "g"}

    def declared(self) -> list[str]:
        """The capabilities: what the subclass overrides, and what follows from the methods it gives."""
        given = set(_overridden(self, TorchImplementation, CAPABILITIES))
        hooks = _overridden(self, TorchImplementation, ("module", "optimizer"))
        if "module" in hooks:
            given.update(_FROM_MODULE, _FROM_DROPOUT if self._drops() else ())
        if len(hooks) == 2:
            given.update(_FROM_OPTIMIZER if self.gated else ("train",))
        return [
            name
            for name in CAPABILITIES
            if name in given and getattr(type(self), name) is not vars(Implementation)[name]
        ]

    def _drops(self) -> bool:
        """Whether the module holds an `nn.Dropout`, seen on the smallest layer."""
        from torch import nn

        r, groups = max(self.least_rank, 1), self.layout.groups
        W0, A, B = np.ones((groups, 1)), np.ones((groups * r, 1)), np.ones((groups, r))
        if self.layout.transposed:
            W0, A, B = W0.T, A.T, B.T
        if self.layout.sites > 1:
            W0 = np.stack([W0] * self.layout.sites)
        layer = Layer(W0, None, A, np.ones(groups * r) if self.gated else None, B, 1.0)
        try:
            return any(isinstance(part, nn.Dropout) for part in self.build(layer).modules())
        except Exception:  # the checks will say what is wrong with it
            return False

    # --- the linear map ---

    def forward(self, layer: Layer, x: Floats) -> Floats:  # noqa: D102 - as in Implementation, here and below
        import torch

        with torch.no_grad():
            return array(self.call(self.build(layer), tensor(x)))

    def gradients(self, layer: Layer, x: Floats, dy: Floats) -> Mapping[str, Floats]:  # noqa: D102
        return self._gradients(self.build(layer), x, dy)

    def training_forward(self, layer: Layer, x: Floats, p: float, seed: int) -> Floats:  # noqa: D102
        import torch

        module = self._in_training(layer, p)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return array(self.call(module, tensor(x)))

    def training_gradients(  # noqa: D102
        self, layer: Layer, x: Floats, dy: Floats, p: float, seed: int
    ) -> Mapping[str, Floats]:
        import torch

        module = self._in_training(layer, p)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._gradients(module, x, dy)

    def accumulate(  # noqa: D102
        self, layer: Layer, microbatches: Sequence[tuple[Floats, Floats]]
    ) -> Mapping[str, Floats]:
        module = self.build(layer)
        for x, dy in microbatches:
            self._backward(module, tensor(x), tensor(dy))
        examples = sum(len(x) for x, _ in microbatches)
        return {name: grad / examples for name, grad in self.branch_gradients(module).items()}

    def _gradients(self, module: torch.nn.Module, x: Floats, dy: Floats) -> dict[str, Floats]:
        leaf = tensor(x).requires_grad_()
        self._backward(module, leaf, tensor(dy))
        dx = 0 * x if leaf.grad is None else array(leaf.grad)
        return {"dx": dx, **self.branch_gradients(module)}

    def _backward(self, module: torch.nn.Module, x: torch.Tensor, dy: torch.Tensor) -> None:
        y = self.call(module, x)
        y.backward(dy.to(y.dtype))  # type: ignore[no-untyped-call,unused-ignore]

    def _in_training(self, layer: Layer, p: float) -> torch.nn.Module:
        from torch import nn

        module = self.build(layer).train()
        for part in module.modules():
            if isinstance(part, nn.Dropout):
                part.p = p
        return module

    # --- gates and training ---

    def gate_steps(self, g: Floats, grads: Floats, plan: Plan) -> Floats:  # noqa: D102
        r, groups, one = len(g), self.layout.groups, g.dtype.type(1)
        W0, A, B = np.full((groups, 1), one), np.full((r, 1), one), np.full((groups, r // groups), one)
        if self.layout.transposed:
            W0, A, B = W0.T, A.T, B.T
        if self.layout.sites > 1:
            W0 = np.stack([W0] * self.layout.sites)
        module = self.build(Layer(W0, None, A, g, B, 1.0))

        def set_gradients(t: int) -> None:
            for name, parameter in self._trained(module).items():
                wanted = tensor(grads[t]) if name == "g" else tensor(np.zeros_like(A if name == "A" else B))
                parameter.grad = wanted.reshape(parameter.shape).to(parameter.device)

        return np.stack([state.g for state in self._run(module, plan, len(grads), set_gradients)])

    def train(self, layer: Layer, xs: Floats, dys: Floats, plan: Plan) -> Sequence[Triple]:  # noqa: D102
        module = self._in_training(layer, 0.0)

        def backward(t: int) -> None:
            self.loss(module, self.call(module, tensor(xs[t])), tensor(dys[t])).backward()  # type: ignore[no-untyped-call,unused-ignore]
            if plan.clip is not None:
                self.clip(module, plan.clip)

        return self._run(module, plan, len(xs), backward)

    def _run(self, module: torch.nn.Module, plan: Plan, count: int, differentiate: Any) -> list[Triple]:
        """The states after each of `count` steps."""
        found = self.optimizer(module, plan)
        optimizer, scheduler = found if isinstance(found, tuple) else (found, None)
        groups = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        states = []
        for t in range(count):
            if scheduler is None:
                for first, group in zip(groups, optimizer.param_groups, strict=True):
                    group["lr"] = plan.lrs[t] if first == plan.peak else plan.lrs[t] * first / plan.peak
            module.zero_grad()
            differentiate(t)
            self.step(module, optimizer, plan, t + 1)
            if scheduler is not None:
                scheduler.step()
            states.append(self.triple(module))
        return states


def tensor(x: Floats | None) -> Any:
    """A tensor of its own memory with these numbers; None for None."""
    import torch

    return None if x is None else torch.tensor(x)


def array(x: Any) -> Floats:
    """The numbers of a tensor or parameter as NumPy has them: half precisions as float32."""
    import torch

    x = x.detach().cpu()
    found: Floats = (x.float() if x.dtype in (torch.bfloat16, torch.float16) else x).numpy()
    return found


def _on_one_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with PyTorch's threads as they were afterwards."""

    @functools.wraps(method)
    def run(*arguments: Any) -> Any:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return method(*arguments)
        finally:
            torch.set_num_threads(threads)

    return run


def _at(module: Any, place: str) -> Any:
    """The parameter or buffer of this dotted name."""
    for part in place.split("."):
        module = getattr(module, part)
    return module


def _overridden(implementation: Implementation, base: type[Implementation], names: Sequence[str]) -> list[str]:
    """Those of the names whose method the implementation's class does not have from this base."""
    return [name for name in names if getattr(type(implementation), name) is not getattr(base, name)]


for _name in (*_FROM_MODULE, *_FROM_DROPOUT, *_FROM_OPTIMIZER):
    setattr(TorchImplementation, _name, _on_one_thread(vars(TorchImplementation)[_name]))
