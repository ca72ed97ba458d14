"""What a run trains, before its first step."""

from __future__ import annotations

import numpy as np

from sora_ref import initial_adapter
from sora_ref.backends import Array
from sora_ref.init import initial_dense
from sora_ref.models import Classifier
from sora_ref.names import adapter_names
from sora_ref.run.config import Config
from sora_ref.run.setup import Setup


def initial_params(setup: Setup) -> dict[str, Array]:
    """Every trained parameter before the first step, from the configuration's seed; adapters, head, norms, biases."""
    config, shapes = setup.config, setup.model.shapes
    params: dict[str, np.ndarray] = {}
    gate = None if config.adapter.gate == "normal" else config.adapter.gate
    for module in setup.scales:
        out, in_ = shapes[f"{module}.weight"]
        adapter = initial_adapter(
            config.seed, module, out, in_, config.adapter.r, config.adapter.alpha, gate=gate, dtype=config.dtype
        )
        names = adapter_names(module)
        params |= {names.A: adapter.A, names.B: adapter.B}
        if config.adapter.gated:
            params[names.g] = adapter.g
    for name in setup.new_head_names:
        if name.endswith(".weight"):
            module = name.removesuffix(".weight")
            out, in_ = shapes[name]
            weight, bias = initial_dense(config.seed, module, out, in_, config.dtype)
            params |= {name: weight, f"{module}.bias": bias}
    on_device = {name: setup.backend.from_host(array) for name, array in params.items()}
    return on_device | {name: setup.frozen[name] for name in _also_trained(config, setup.model)}


def _also_trained(config: Config, model: Classifier) -> list[str]:
    """The encoder's own parameters that the configuration trains."""
    architecture = model.architecture
    own = architecture.shapes(model.config)
    norms = [name for name in own if architecture.is_norm(name)]
    biases = [name for name in own if architecture.is_bias(name) and not architecture.is_norm(name)]
    return [*(norms if config.adapter.norms else ()), *(biases if config.adapter.biases else ())]
