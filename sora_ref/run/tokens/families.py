"""The families of tokenisers by name, and which of them a model folder's is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from sora_ref.errors import shown
from sora_ref.models.architecture import TokenizerFamily
from sora_ref.models.architectures import ARCHITECTURES
from sora_ref.preconditions import require
from sora_ref.run.tokens.byte_level_bpe import BYTE_LEVEL_BPE
from sora_ref.run.tokens.documents import BESIDE, FILE, named_class
from sora_ref.run.tokens.family import Family
from sora_ref.run.tokens.wordpiece import WORDPIECE

FAMILIES: Mapping[TokenizerFamily, Family] = MappingProxyType(
    {"wordpiece": WORDPIECE, "byte-level-bpe": BYTE_LEVEL_BPE}
)
"""Every family, by the name that the record of an architecture has for it."""

AS_WRITTEN = ("PreTrainedTokenizer", "TokenizersBackend")
"""Classes for which transformers takes tokenizer.json as it stands; they give no token types."""

NAMES = (FILE, *BESIDE, *(name for family in FAMILIES.values() for name in family.vocabulary))
"""Every file of a tokeniser, whichever its family."""


class Chosen(NamedTuple):
    """The class of a folder's tokeniser, without "Fast", and the family that this is, or that the model has."""

    name: str
    family: Family

    @property
    def as_written(self) -> bool:
        """Whether tokenizer.json is taken as it stands."""
        return self.name in AS_WRITTEN

    @property
    def gives_types(self) -> bool:
        """Whether the class gives token types to the model, where no setting says so."""
        return self.family.classes.get(self.name, False)


def chosen(folder: Path) -> Chosen:
    """As transformers' AutoTokenizer chooses: the class that the folder names, else the usual one of its model_type.

    A folder that names neither is a BERT's.  Raises SoRAError for a class that is not known here.
    """
    name, model_type = named_class(folder)
    architecture = ARCHITECTURES.get(model_type)
    of_model = WORDPIECE if architecture is None else FAMILIES[architecture.tokenizer]
    if name is None:
        return Chosen(of_model.usual, of_model)
    by_class = {known: family for family in FAMILIES.values() for known in family.classes}
    by_class |= dict.fromkeys(AS_WRITTEN, of_model)
    require(name in by_class, f"{folder}: tokenizer_class is {shown(name)}: expected one of {', '.join(by_class)}")
    return Chosen(name, by_class[name])
