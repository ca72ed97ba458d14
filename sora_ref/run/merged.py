"""The files of a merged model's folder beside its weights: config.json, README, labels, head and loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sora_ref.peft import loaders
from sora_ref.peft.card import Labels, labels_of, merged_card
from sora_ref.peft.export import head_bytes
from sora_ref.peft.format import HEAD_FILE, LABELS_FILE, README_FILE
from sora_ref.run.artefacts import ARTEFACTS
from sora_ref.run.hub import repository
from sora_ref.run.setup import Setup
from sora_ref.storage.documents import read_json

LOADER_FILE = "load_with_transformers.py"

# Keys of the base model's config.json that are not true of the merged one: where it came from and which code it ran,
# how it was stored, and what its outputs were called.  Every other key stays.
_OLD = (
    "_name_or_path",
    "_commit_hash",
    "auto_map",
    "quantization_config",
    "torch_dtype",
    "num_labels",
    "id2label",
    "label2id",
    "problem_type",
)


def labels_of_setup(setup: Setup) -> Labels:
    """The names of the outputs, and the longest input."""
    limit = min(setup.config.model.max_length, setup.model.config.longest)
    return labels_of(setup.labels.outputs, setup.labels.names, limit)


def hub_name(setup: Setup) -> str | None:
    """The base model's name on the hub, where it was fetched from there."""
    path = setup.config.model.path
    return ARTEFACTS[path].hub if path in ARTEFACTS else repository(path)


def hub_commit(setup: Setup) -> str | None:
    """The commit of a base model that was taken from the hub by name, as the run recorded it."""
    path = setup.config.model.path
    return path.partition("@")[2] or None if path not in ARTEFACTS and repository(path) else None


def merged_config(setup: Setup, dtype: str) -> dict[str, Any]:
    """config.json of the merged model: the base's, with the classes of a head that transformers has.

    With any other it claims no classes at all, not even the two that transformers takes by default: then a
    text-classification pipeline, which would run a classifier drawn at random, has nothing to choose from and fails.
    """
    path = setup.folder / "config.json"
    found = read_json(path, dict[str, Any], "the model's configuration")
    config = {key: value for key, value in found.items() if key not in _OLD}
    labels = labels_of_setup(setup)
    architecture, whole = setup.model.architecture, setup.model.head_record.in_transformers
    names = labels.names if whole else ()
    config |= {
        "architectures": [architecture.classifier_class if whole else architecture.model_class],
        "dtype": dtype,
        "id2label": {str(row): name for row, name in enumerate(names)},
        "label2id": {name: row for row, name in enumerate(names)},
    }
    return config | ({"problem_type": labels.problem} if whole else {})


def merged_extras(setup: Setup, head: Mapping[str, np.ndarray], licence: str | None) -> dict[str, bytes]:
    """README.md; and with a head that transformers has no class for, the head, its labels and a loader."""
    labels = labels_of_setup(setup)
    architecture, record = setup.model.architecture, setup.model.head_record
    card = merged_card(
        architecture=architecture,
        base_model=hub_name(setup),
        whole=record.in_transformers,
        labels=labels,
        licence=licence,
    )
    if record.in_transformers:
        return {README_FILE: card.encode()}
    own = {name: head[name] for name in record.outer}
    return {
        README_FILE: card.encode(),
        HEAD_FILE: head_bytes(own, record, setup.model.head, labels),
        LABELS_FILE: labels.as_json().encode(),
        LOADER_FILE: loaders.TRANSFORMERS_BESIDE.encode(),
    }
