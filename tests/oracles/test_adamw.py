"""AdamW, clipping and the released schedule beside torch and transformers, fed the same gradients and states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sora_ref.bounds import gamma
from sora_ref.gradients import clip_by_global_norm
from sora_ref.optim import SGD, AdamW, Moments, zero_moments
from sora_ref.schedules import released_linear

torch = pytest.importorskip("torch", reason="needs torch: pip install 'sora_ref[oracles]'")

Floats = npt.NDArray[Any]
U = 2.0**-53
# One step computes each of m, v, sqrt, the corrections, the quotient and the shrunk θ with at most 16 roundings on a
# path, in either library; both start a step from the same θ, m, v, so nothing accumulates.
ROUNDINGS = 16


def gradients(steps: int, seed: int = 0) -> list[Floats]:
    """Ordinary, tiny, huge, sparse and vanishing gradients."""
    rng = np.random.default_rng(seed)
    out = [rng.standard_normal((3, 4)) * 10.0 ** rng.integers(-9, 3) for _ in range(steps)]
    out[2][1] = 0
    out[4][...] = 0
    return out


def near(found: Floats, expected: Any, size: Any) -> bool:
    return bool(np.all(np.abs(found - np.asarray(expected)) <= 2 * gamma(ROUNDINGS, U) * np.asarray(size)))


@pytest.mark.bounded("SORA-OPT-2", "SORA-OPT-3")
@pytest.mark.independent("SORA-OPT-2", "SORA-OPT-3")
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-8, 1e-3])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.5), (0.8, 0.9)])
def test_adamw_steps_as_torch_does(betas: tuple[float, float], eps: float, decay: float) -> None:
    theta = np.random.default_rng(1).standard_normal((3, 4))
    leaf = torch.nn.Parameter(torch.tensor(theta))
    reference = torch.optim.AdamW([leaf], lr=0.1, betas=betas, eps=eps, weight_decay=decay, foreach=False)
    ours, moments = AdamW(betas=betas, eps=eps, weight_decay=decay), zero_moments(theta)
    for t, grad in enumerate(gradients(12), start=1):
        lr = 0.1 / t
        reference.param_groups[0]["lr"] = lr
        leaf.grad = torch.tensor(grad)
        reference.step()
        before, old = theta, moments
        theta, moments = ours.update(before, grad, old, t, lr)
        state, expected = reference.state[leaf], leaf.detach().numpy()
        m_size = betas[0] * np.abs(old.m) + (1 - betas[0]) * np.abs(grad)
        assert near(moments.m, state["exp_avg"], m_size)
        assert near(moments.v, state["exp_avg_sq"], moments.v)
        step = lr / (1 - betas[0] ** t) * m_size / ours.metric(moments, t)
        assert near(theta, expected, np.abs(before) + step)
        theta = expected.copy()  # the next step starts from the same numbers
        moments = Moments(state["exp_avg"].numpy().copy(), state["exp_avg_sq"].numpy().copy())


def old_adamw(theta: Any, state: dict[str, Any], grad: Any, t: int, lr: float, eps: float, decay: float) -> Any:
    """The optimiser transformers had until 4.x, from its published formula: ε beside √v uncorrected, decay last."""
    m, v = state["m"], state["v"]
    m.mul_(0.9).add_(grad, alpha=1 - 0.9)
    v.mul_(0.999).addcmul_(grad, grad, value=1 - 0.999)
    size = lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    theta.addcdiv_(m, v.sqrt().add_(eps), value=-size)
    if decay > 0:
        theta.add_(theta, alpha=-lr * decay)
    return theta


@pytest.mark.bounded("SORA-OPT-2", "SORA-OPT-3")
@pytest.mark.independent("SORA-OPT-2")
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_raw_eps_and_late_decay_step_as_the_old_adamw_did(eps: float, decay: float) -> None:
    theta = np.random.default_rng(2).standard_normal((3, 4))
    ours, moments = AdamW(eps=eps, weight_decay=decay, eps_on="raw", decays="after"), zero_moments(theta)
    for t, grad in enumerate(gradients(12, seed=3), start=1):
        state = {"m": torch.tensor(moments.m), "v": torch.tensor(moments.v)}
        expected = old_adamw(torch.tensor(theta), state, torch.tensor(grad), t, 0.05, eps, decay).numpy()
        m_size = 0.9 * np.abs(moments.m) + 0.1 * np.abs(grad)
        after, moments = ours.update(theta, grad, moments, t, 0.05)
        step = 0.05 / (1 - 0.9**t) * m_size / ours.metric(moments, t)
        assert near(after, expected, np.abs(theta) + step)
        assert near(moments.v, state["v"], moments.v)
        theta = after


@pytest.mark.exact("SORA-OPT-2", "SORA-STEP-6")
def test_undecayed_groups_ignore_the_decay() -> None:
    theta, grad = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    ours = AdamW(weight_decay=0.5)
    plain = AdamW().update(theta, grad, zero_moments(theta), 1, 0.1)[0]
    assert ours.update(theta, grad, zero_moments(theta), 1, 0.1, decay=False)[0].tobytes() == plain.tobytes()


@pytest.mark.bounded("SORA-OPT-1")
@pytest.mark.independent("SORA-OPT-1")
def test_sgd_without_momentum_steps_as_torch_does() -> None:
    theta = np.random.default_rng(4).standard_normal((3, 4))
    leaf = torch.nn.Parameter(torch.tensor(theta))
    reference = torch.optim.SGD([leaf], lr=0.1, weight_decay=0.25)
    for t, grad in enumerate(gradients(6, seed=5), start=1):
        leaf.grad = torch.tensor(grad)
        reference.step()
        size = np.abs(theta) + 0.1 * np.abs(grad)
        theta = SGD(weight_decay=0.25).update(theta, grad, zero_moments(theta), t, 0.1)[0]
        assert near(theta, leaf.detach().numpy(), size)
        theta = leaf.detach().numpy().copy()


@pytest.mark.bounded("SORA-STEP-4")
@pytest.mark.independent("SORA-STEP-4")
@pytest.mark.parametrize("limit", [0.1, 3.0, 1e6])
def test_clipping_equals_torchs_with_its_eps(limit: float) -> None:
    rng = np.random.default_rng(6)
    grads = {name: rng.standard_normal(shape) for name, shape in {"a": (3, 4), "b": (5,), "c.sora_g": (2,)}.items()}
    leaves = [torch.nn.Parameter(torch.zeros(grad.shape, dtype=torch.float64)) for grad in grads.values()]
    for leaf, grad in zip(leaves, grads.values(), strict=True):
        leaf.grad = torch.tensor(grad)
    expected = torch.nn.utils.clip_grad_norm_(leaves, limit)
    clipped, norm = clip_by_global_norm(grads, limit, eps=1e-6)
    rounding = 2 * gamma(19 + 6, U)  # 19 squares summed; root, sum with eps, quotient, product
    assert abs(float(norm) - float(expected)) <= rounding * float(norm)
    for (name, found), leaf in zip(clipped.items(), leaves, strict=True):
        # torch's factor is limit/(norm + eps) capped at 1; ours is limit/max(norm + eps, limit): the same number
        assert np.all(np.abs(found - leaf.grad.numpy()) <= rounding * np.abs(grads[name])), name


@pytest.mark.bounded("SORA-SCHED-2")
@pytest.mark.independent("SORA-SCHED-2")
@pytest.mark.parametrize(("total", "warmup"), [(10, 0), (10, 3), (7, 7), (1, 0), (1, 1)])
def test_released_schedule_equals_transformers(total: int, warmup: int) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'sora_ref[oracles]'")
    leaf = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([leaf], lr=3e-4)
    reference = transformers.get_linear_schedule_with_warmup(optimiser, warmup, total)
    ours = released_linear(3e-4, total, warmup)
    found: Sequence[float] = [ours(t) for t in range(1, total + 3)]
    for t, value in enumerate(found, start=1):
        assert abs(value - reference.get_last_lr()[0]) <= gamma(3, U) * value, f"step {t}"  # product and quotient
        optimiser.step()
        reference.step()
