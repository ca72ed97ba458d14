"""The smallest real adapter for JAX: a function, an update, pruning, and the class that shows them to the kit."""

import jax.numpy as jnp

from sora_ref.conformance import JaxImplementation


def sora_linear(params, x):
    y = x @ params["W0"].T + params["s"] * ((x @ params["A"].T) * params["g"]) @ params["B"].T
    return y if params["b"] is None else y + params["b"]


def prox_sgd(trained, grads, lr, lam, decay):
    A, B = (trained[name] - lr * (grads[name] + decay * trained[name]) for name in ("A", "B"))
    g = trained["g"] - lr * grads["g"]
    return {"A": A, "g": g - jnp.clip(g, -lr * lam, lr * lam), "B": B}


def prune(params):
    keep = params["g"] != 0
    return params | {"A": params["A"][keep], "g": params["g"][keep], "B": params["B"][:, keep]}


class Mine(JaxImplementation):
    def apply(self, params, x):
        return sora_linear(params, x)

    def update(self, trained, grads, state, plan, t):
        return prox_sgd(trained, grads, plan.lrs[t - 1], plan.strength, plan.weight_decay), state

    def prune(self, layer):
        return self.layer(prune(self.params(layer)))


# ruff: noqa: D101, D102, D103
