"""What a run trains, before its first step."""

from __future__ import annotations

import numpy as np

from sora_ref.backends import Array
from sora_ref.init import initial_dense
from sora_ref.methods import METHODS
from sora_ref.models import Classifier
from sora_ref.run.config import Config
from sora_ref.run.setup import Setup, added_by_method


def initial_params(setup: Setup) -> dict[str, Array]:
    """Every trained parameter before the first step, from the configuration's seed; adapters, head, norms, biases."""
    config, shapes = setup.config, setup.model.shapes
    params: dict[str, np.ndarray] = {}
    for added in added_by_method(config, setup.model, setup.scales):
        params |= added.trained
    for name in setup.new_head_names:
        if name.endswith(".weight"):
            module = name.removesuffix(".weight")
            out, in_ = shapes[name]
            weight, bias = initial_dense(config.seed, module, out, in_, config.dtype)
            params |= {name: weight, f"{module}.bias": bias}
    on_device = {name: setup.backend.from_host(array) for name, array in params.items()}
    return on_device | {name: setup.frozen[name] for name in _also_trained(config, setup.model)}


def _also_trained(config: Config, model: Classifier) -> list[str]:
    """The model's own parameters that the method or the configuration trains."""
    groups = {*METHODS[config.method].own, *config.train.also}
    architecture = model.architecture
    own = architecture.shapes(model.config)
    norms = [name for name in own if architecture.is_norm(name)]
    biases = [name for name in own if architecture.is_bias(name) and not architecture.is_norm(name)]
    return [*(norms if "norms" in groups else ()), *(biases if "biases" in groups else ())]
