"""The kit before peers: SoRA in PyTorch and JAX, written from the specification with autograd, and PEFT's layers.

The implementations stand in docs/examples/implementations.  A right one passes, and a refusal names the right reason.
"""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from sora_ref.conformance import (
    VARIANTS,
    Implementation,
    Layer,
    Plan,
    Report,
    StorageLayout,
    capabilities,
    check_implementation,
)
from sora_ref.conformance.protocol.jax_base import JaxImplementation
from sora_ref.conformance.protocol.torch_base import TorchImplementation

WANTED = "is not installed: pip install 'sora_ref[oracles]'"
torch = pytest.importorskip("torch", reason=f"torch {WANTED}")
jax = pytest.importorskip("jax", reason=f"jax {WANTED}")
pytest.importorskip("peft", reason=f"peft {WANTED}")

IMPLEMENTATIONS = Path(__file__).resolve().parents[2] / "docs/examples/implementations"


@cache
def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"implementations_{name}", IMPLEMENTATIONS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # `inspect` looks there
    spec.loader.exec_module(module)
    return module


def found(report: Report, status: str) -> dict[str, str]:
    """The checks of this status, with what is said of them."""
    return {
        each.check.id: each.refusal.sentence if each.refusal else each.reason
        for each in report.outcomes
        if each.status == status
    }


# --- right implementations ---


@pytest.mark.independent(
    "SORA-LINEAR-1",
    "SORA-LINEAR-2",
    "SORA-LINEAR-3",
    "SORA-LINEAR-4",
    "SORA-LINEAR-5",
    "SORA-PROX-1",
    "SORA-PROX-2",
    "SORA-PROX-3",
    "SORA-PROX-4",
    "SORA-OPT-1",
    "SORA-GATE-1",
    "SORA-GATE-2",
    "SORA-REVIVAL-1",
    "SORA-STEP-1",
    "SORA-STEP-2",
    "SORA-STEP-4",
    "SORA-STEP-5",
    "SORA-STEP-6",
    "SORA-STEP-7",
    "SORA-SCHED-1",
    "SORA-SCHED-3",
    "SORA-SCHED-4",
    "SORA-STAGE-1",
    "SORA-INIT-1",
    "SORA-INIT-2",
    "SORA-PRUNE-1",
    "SORA-PRUNE-2",
    "SORA-PRUNE-4",
    "SORA-PRUNE-5",
    "SORA-COUNT-1",
    "SORA-COUNT-2",
    "SORA-STORE-1",
    "SORA-BOUND-2",
    "SORA-BOUND-4",
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pytorch_written_from_the_specification_passes_everything(seed: int) -> None:
    report = check_implementation(example("torch_sora").TorchSoRA, seed=seed, max_examples=20)
    assert found(report, "failed") == {}
    assert found(report, "skipped") == {"SORA-GATE-3": "declares the amount lr-lambda"}
    assert report.holds


@pytest.mark.independent(
    "SORA-LINEAR-1",
    "SORA-LINEAR-3",
    "SORA-LINEAR-4",
    "SORA-LINEAR-5",
    "SORA-PROX-1",
    "SORA-GATE-1",
    "SORA-STEP-1",
    "SORA-STEP-2",
    "SORA-STEP-4",
    "SORA-INIT-2",
    "SORA-PRUNE-1",
    "SORA-PRUNE-2",
    "SORA-PRUNE-4",
    "SORA-PRUNE-5",
    "SORA-STORE-1",
)
@pytest.mark.parametrize("seed", [1, 2])
def test_jax_written_from_the_specification_passes_everything(seed: int) -> None:
    report = check_implementation(example("jax_sora").JaxSoRA, seed=seed, max_examples=6)
    assert found(report, "failed") == {}
    assert found(report, "skipped") == {"SORA-GATE-3": "declares the amount lr-lambda"}
    assert report.holds


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-PROX-1", "SORA-PRUNE-1", "SORA-PRUNE-2")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("module", "name"),
    [("torch_sora", "TorchSoRA"), ("jax_sora", "JaxSoRA"), ("minimal_torch", "Mine"), ("minimal_jax", "Mine")],
)
def test_core_holds_in_float32(module: str, name: str, seed: int) -> None:
    report = check_implementation(
        getattr(example(module), name), level="core", dtype="float32", seed=seed, max_examples=6
    )
    assert found(report, "failed") == found(report, "skipped") == {}
    assert report.holds


@pytest.mark.parametrize(
    ("module", "kind"), [("minimal_torch", TorchImplementation), ("minimal_jax", JaxImplementation)]
)
def test_smallest_implementations_are_under_15_lines_and_pass_what_follows_from_them(module: str, kind: type) -> None:
    mine = example(module).Mine
    assert issubclass(mine, kind)
    assert len(inspect.getsource(mine).splitlines()) < 15
    assert {"forward", "gradients", "gate_steps", "train", "prune"} <= set(capabilities(mine()))
    report = check_implementation(mine, max_examples=8)
    assert found(report, "failed") == {}
    assert all(reason.startswith(("needs ", "declares ")) for reason in found(report, "skipped").values())
    assert report.holds


def with_adamw(variant: str) -> Implementation:
    """torch's own AdamW on all three parameters, then the threshold, outside the optimiser."""

    class Mine(example("torch_sora").TorchSoRA):  # type: ignore[misc]
        choices = VARIANTS[variant]

        def optimizer(self, module: Any, plan: Plan) -> Any:
            weights = {"params": [module.lora_A, module.lora_B], "weight_decay": plan.weight_decay}
            return torch.optim.AdamW([weights, {"params": [module.gate], "weight_decay": 0.0}], lr=plan.peak)

        def step(self, module: Any, optimizer: Any, plan: Plan, t: int) -> None:
            optimizer.step()
            gates = optimizer.param_groups[1]
            amount = plan.strength if variant == "adamw-xi" else plan.strength * gates["lr"]
            if variant.startswith("adamw-metric"):
                v = optimizer.state[module.gate]["exp_avg_sq"] / (1 - 0.999**t)
                literal = amount / (v.sqrt() + 1e-8)
                amount = literal if variant == "adamw-metric-literal" else torch.where(v > 0, literal, 0)
            with torch.no_grad():
                module.gate -= module.gate.clamp(-amount, amount)

        if variant.startswith("adamw-metric"):

            def prox(self, v: Any, xi: float) -> Any:
                return v - np.clip(v, -v.dtype.type(xi), v.dtype.type(xi))

    return Mine()


@pytest.mark.independent("SORA-OPT-2", "SORA-OPT-3", "SORA-GATE-1", "SORA-GATE-3", "SORA-REVIVAL-1", "SORA-STEP-7")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("variant", ["adamw-xi", "adamw-lr-lambda", "adamw-metric", "adamw-metric-literal"])
def test_thresholds_after_pytorchs_adamw_pass_as_the_variant_they_declare(variant: str, dtype: str) -> None:
    rules = [
        "SORA-PROX-1", "SORA-GATE-1", "SORA-GATE-2", "SORA-OPT-2", "SORA-GATE-3", "SORA-REVIVAL-1",
        "SORA-STEP-1", "SORA-STEP-7", "SORA-STEP-6",
    ]  # fmt: skip
    report = check_implementation(with_adamw(variant), dtype=dtype, max_examples=20, only=rules)
    assert found(report, "failed") == {}
    assert set(found(report, "skipped")) <= {"SORA-GATE-3"}


def test_autocast_passes_as_the_low_precision_it_declares_and_not_as_float32() -> None:
    class Undeclared(example("torch_sora").TorchSoRA):  # type: ignore[misc]
        dtypes = ("float32",)

        def call(self, module: Any, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return module(x.float())

    class Declared(Undeclared):
        precision = "bf16, stored"

    judged = ["SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-BOUND-2", "SORA-BOUND-4"]
    report = check_implementation(Declared, dtype="float32", only=judged, max_examples=20)
    assert found(report, "failed") == {}
    assert "SORA-BOUND-2" in found(
        check_implementation(Undeclared, dtype="float32", only=judged, max_examples=20), "failed"
    )


def test_whole_steps_alone_are_checked_through_themselves() -> None:
    class WholeSteps(Implementation):
        """A trainer: what goes in is a layer and data, what comes out are A, g and B after each step."""

        def train(self, layer: Layer, xs: Any, dys: Any, plan: Plan) -> Any:
            return example("torch_sora").TorchSoRA().train(layer, xs, dys, plan)

    report = check_implementation(WholeSteps, max_examples=20)
    assert found(report, "failed") == {}
    derived = {"SORA-LINEAR-3", "SORA-PROX-1", "SORA-GATE-1", "SORA-STEP-1", "SORA-STEP-6", "SORA-STEP-7"}
    assert derived <= set(found(report, "passed"))
    assert "needs forward" in found(report, "skipped")["SORA-LINEAR-1"]


def laid_out(xp: Any, layout: StorageLayout, layer: Layer, x: Any) -> Any:
    """The map of a layer in any layout, in torch's or JAX's functions."""
    W0, b, A, g, B, s = layer
    if layout.transposed:
        W0, A, B = xp.swapaxes(W0, 0, 1), A.T, B.T
    z, k = (x @ A.T) * g, layout.groups
    rank, rows = A.shape[0] // k, B.shape[0] // k
    parts = [z[..., i * rank : (i + 1) * rank] @ B[i * rows : (i + 1) * rows].T for i in range(k)]
    y = xp.einsum("s...i,soi->s...o", x, W0) if layout.sites > 1 else x @ W0.T
    if b is not None:
        y = y + (b.reshape(len(b), *(1,) * (x.ndim - 2), -1) if layout.sites > 1 else b)
    return y + s * xp.concatenate(parts, -1)


@pytest.mark.parametrize(
    "layout", [StorageLayout(transposed=True), StorageLayout(groups=3), StorageLayout(sites=2)], ids=str
)
def test_bases_take_every_layout(layout: StorageLayout) -> None:
    class Module(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, given: Layer) -> None:
            super().__init__()
            self.A, self.g, self.B = (torch.nn.Parameter(torch.empty_like(part)) for part in given[2:5])
            self.given = given

        def forward(self, x: Any) -> Any:
            return laid_out(torch, layout, self.given._replace(A=self.A, g=self.g, B=self.B), x)

    class InTorch(TorchImplementation):
        parameters: ClassVar = {"A": "A", "g": "g", "B": "B"}

        def module(self, layer: Layer) -> Any:
            return Module(layer)

        def optimizer(self, module: Any, plan: Plan) -> Any:
            return example("torch_sora").ProximalSGD((module.A, module.B), [module.g], plan.peak, plan.strength)

    class InJax(JaxImplementation):
        def update(self, trained: Any, grads: Any, state: Any, plan: Plan, t: int) -> Any:
            return example("jax_sora").proximal_sgd(trained, grads, plan.lrs[t - 1], plan.strength), state

        def apply(self, params: dict[str, Any], x: Any) -> Any:
            return laid_out(jax.numpy, layout, Layer(**params), x)

    for implementation in (InTorch(), InJax()):
        implementation.layout = layout  # type: ignore[misc]
        judged = ["SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-GATE-1", "SORA-STEP-1"]
        report = check_implementation(implementation, only=judged, max_examples=8)
        assert found(report, "failed") == {}
        assert set(judged) <= set(found(report, "passed"))


# --- PEFT ---

LORA_CLAIMS = {
    "SORA-LINEAR-5", "SORA-LINEAR-1", "SORA-LINEAR-1.dropout", "SORA-LINEAR-3", "SORA-LINEAR-3.dropout", "SORA-BOUND-2",
    "SORA-BOUND-4", "SORA-STEP-2", "SORA-PRUNE-4", "SORA-PRUNE-5", "SORA-STORE-1", "SORA-LINEAR-5.arguments",
}  # fmt: skip


@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3", "SORA-PRUNE-4", "SORA-PRUNE-5", "SORA-STORE-1")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_peft_lora_passes_as_the_pruned_form(dtype: str) -> None:
    report = check_implementation(example("peft_lora").PeftLoRA, dtype=dtype, max_examples=15)
    assert found(report, "failed") == {}
    assert set(found(report, "passed")) == LORA_CLAIMS


@pytest.mark.independent("SORA-STEP-1", "SORA-STEP-6", "SORA-STEP-7")
def test_peft_lora_trained_by_sgd_passes_without_gates() -> None:
    steps = ["SORA-STEP-1", "SORA-STEP-6", "SORA-STEP-7", "SORA-PROX-1", "SORA-GATE-1"]
    report = check_implementation(example("peft_lora").TrainedPeftLoRA, max_examples=15, only=steps)
    assert found(report, "failed") == {}
    assert set(found(report, "passed")) == {"SORA-STEP-1", "SORA-STEP-6", "SORA-STEP-7"}


def test_peft_merges_twice_without_a_word_but_a_warning_and_refuses_rank_0() -> None:
    peft_lora = example("peft_lora").PeftLoRA()
    one = np.ones((1, 1))
    module = peft_lora.build(Layer(one, None, one, None, one, 1.0))
    module.merge()
    with pytest.warns(UserWarning, match="already merged, nothing to do"):
        module.merge()
    assert module.base_layer.weight.item() == 2
    module.unmerge()
    with pytest.warns(UserWarning, match="Already unmerged"):
        module.unmerge()
    assert module.base_layer.weight.item() == 1
    module.train().merge()  # dropout is 0.5, and nothing is said
    with pytest.raises(ValueError, match="positive integer"):
        peft_lora.build(Layer(one, None, one[:0], None, one[:, :0], 1.0))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_adalora_is_refused_for_its_scale_which_a_tolerance_passes(dtype: str) -> None:
    adalora = example("peft_adalora").PeftAdaLoRA
    report = check_implementation(adalora, level="core", dtype=dtype, max_examples=20)
    long_sums = {"SORA-BOUND-2", "SORA-BOUND-4"} if dtype == "float64" else set()
    assert {"SORA-LINEAR-1", "SORA-LINEAR-3"} | long_sums <= set(found(report, "failed"))
    assert not report.holds

    first = next(each.refusal for each in report.outcomes if each.check.id == "SORA-LINEAR-1" and each.refusal)
    layer, x = first.case["layer"], first.case["x"]
    y = adalora().forward(layer, x)
    W0, b, A, g, B, s = layer
    exact = x @ W0.T + (0 if b is None else b) + s * ((x @ A.T) * g) @ B.T
    np.testing.assert_allclose(y, exact, rtol=1e-4)
    r = len(g)
    np.testing.assert_allclose(y, x @ W0.T + (0 if b is None else b) + s * r / (r + 1e-5) * ((x @ A.T) * g) @ B.T, 1e-6)


# --- what the bases themselves do ---


def broken(change: str) -> Implementation:
    """The right implementation with one thing wrong."""

    class Broken(example("torch_sora").TorchSoRA):  # type: ignore[misc]
        if change == "mask":

            def call(self, module: Any, x: Any) -> Any:
                module.gate.register_hook(lambda grad: torch.where(module.gate == 0, 0, grad))
                return module(x)

        if change == "clip":

            def clip(self, module: Any, limit: float) -> None:
                torch.nn.utils.clip_grad_norm_(module.parameters(), limit)

        if change == "schedule first":

            def optimizer(self, module: Any, plan: Plan) -> Any:
                optimizer = super().optimizer(module, plan)
                rates = [*plan.lrs[1:], 0.0]
                return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: rates[t] / plan.peak)

        if change == "loss":

            def loss(self, module: Any, y: Any, dy: Any) -> Any:
                return super().loss(module, y, dy) + 0.5 * module.gate.abs().sum()

    return Broken()


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ("mask", "SORA-LINEAR-4"),
        ("clip", "SORA-STEP-4"),
        ("schedule first", "SORA-STEP-7"),
        ("loss", "SORA-STEP-1"),
    ],
)
def test_what_the_user_overrides_is_what_is_judged(change: str, refused: str) -> None:
    assert set(found(check_implementation(broken(change), only=[refused], max_examples=20), "failed")) == {refused}


def test_a_scheduler_of_the_users_own_is_stepped_after_the_optimiser() -> None:
    class Mine(example("torch_sora").TorchSoRA):  # type: ignore[misc]
        def optimizer(self, module: Any, plan: Plan) -> Any:
            optimizer = super().optimizer(module, plan)
            return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: plan.lrs[t] / plan.peak)

    report = check_implementation(Mine, only=["SORA-STEP-7", "SORA-GATE-2"], max_examples=20)
    assert set(found(report, "passed")) == {"SORA-STEP-7", "SORA-GATE-2"}


@pytest.mark.parametrize("base", [TorchImplementation, JaxImplementation])
def test_a_base_claims_only_what_its_subclass_can_do(base: type[Implementation]) -> None:
    assert capabilities(base()) == ()

    class Pruner(base):  # type: ignore[valid-type, misc]
        def prune(self, layer: Layer) -> Layer:
            return layer

    assert capabilities(Pruner()) == ("prune",)
    hook = "module" if base is TorchImplementation else "apply"
    given = type("Given", (base,), {hook: lambda self, *arguments: None})
    assert {"forward", "gradients"} <= set(capabilities(given())) <= {"forward", "gradients", "accumulate"}
    less = type("Less", (given,), {"gradients": Implementation.gradients})
    assert "gradients" not in capabilities(less())


def test_a_parameter_of_another_shape_is_named() -> None:
    class Transposed(example("torch_sora").TorchSoRA):  # type: ignore[misc]
        parameters: ClassVar = {**example("torch_sora").TorchSoRA.parameters, "A": "lora_B", "B": "lora_A"}

    report = check_implementation(Transposed, only=["SORA-LINEAR-1"], max_examples=20)
    assert "A, the module's lora_B, has shape" in found(report, "failed")["SORA-LINEAR-1"]


def test_jax_and_pytorch_are_left_as_they_were() -> None:
    before = jax.config.jax_enable_x64, torch.get_num_threads(), torch.get_rng_state()
    for module, name in (("torch_sora", "TorchSoRA"), ("jax_sora", "JaxSoRA")):
        check_implementation(
            getattr(example(module), name), only=["SORA-LINEAR-1.dropout", "SORA-STEP-1"], max_examples=2
        )
    after = jax.config.jax_enable_x64, torch.get_num_threads(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_importing_the_kit_and_its_bases_loads_neither_pytorch_nor_jax() -> None:
    code = (
        "import sys, sora_ref.conformance, sora_ref.conformance.protocol.torch_base; "
        "print(*({'torch', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
