"""The files of a merged model's folder beside its weights: config.json, README, labels, head and loader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sora_ref.models.pretrained import POOLER
from sora_ref.peft import loaders
from sora_ref.peft.card import Labels, labels_of, merged_card
from sora_ref.peft.export import head_bytes
from sora_ref.peft.format import CLASSIFIER, HEAD_FILE, LABELS_FILE, README_FILE
from sora_ref.preconditions import require
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
    limit = min(setup.config.model.max_length, setup.model.bert.max_position_embeddings)
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
    """config.json of the merged model: the base's, with the classes of a `cls` head.

    With the mean head it claims no classes at all, not even the two that transformers takes by default: then a
    text-classification pipeline, which would run a classifier drawn at random, has nothing to choose from and fails.
    """
    path = setup.folder / "config.json"
    found = read_json(path, dict[str, Any], "the model's configuration")
    config = {key: value for key, value in found.items() if key not in _OLD}
    labels = labels_of_setup(setup)
    cls = setup.model.head == "cls"
    names = labels.names if cls else ()
    config |= {
        "architectures": ["BertForSequenceClassification" if cls else "BertModel"],
        "dtype": dtype,
        "id2label": {str(row): name for row, name in enumerate(names)},
        "label2id": {name: row for row, name in enumerate(names)},
    }
    return config | ({"problem_type": labels.problem} if cls else {})


def merged_extras(setup: Setup, head: Mapping[str, np.ndarray], licence: str | None) -> dict[str, bytes]:
    """README.md; and with the mean head, which transformers has no class for, the head, its labels and a loader."""
    labels = labels_of_setup(setup)
    card = merged_card(base_model=hub_name(setup), head=setup.model.head, labels=labels, licence=licence)
    if setup.model.head == "cls":
        return {README_FILE: card.encode()}
    own = {name: head[name] for name in CLASSIFIER}
    require(not any(name in head for name in POOLER), "a mean head has no pooler: expected a classifier alone")
    return {
        README_FILE: card.encode(),
        HEAD_FILE: head_bytes(own, "mean", labels),
        LABELS_FILE: labels.as_json().encode(),
        LOADER_FILE: loaders.TRANSFORMERS_BESIDE.encode(),
    }
