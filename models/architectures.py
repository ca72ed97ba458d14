"""The table of architectures, and the words in which a user names their linear layers and heads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sora_ref.models.architecture import Architecture
from sora_ref.models.bert import BERT
from sora_ref.models.distilbert import DISTILBERT
from sora_ref.models.roberta import ROBERTA

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {each.model_type: each for each in (BERT, ROBERTA, DISTILBERT)}
)
"""Every architecture by the model_type of its config.json."""

KINDS: tuple[str, ...] = tuple(dict.fromkeys(kind for each in ARCHITECTURES.values() for kind in each.kinds))
"""Every kind of linear layer that some architecture has."""

OUTPUT_LAYERS: tuple[str, ...] = tuple(
    dict.fromkeys(head.out for each in ARCHITECTURES.values() for head in each.heads.values())
)
"""The last linear layers of all heads, by module."""


def listed_titles(last: str = "or") -> str:
    """The architectures as a sentence lists them: "BERT, RoBERTa or DistilBERT"."""
    *others, final = (each.title for each in ARCHITECTURES.values())
    return f"{', '.join(others)} {last} {final}" if others else final
