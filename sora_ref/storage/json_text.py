"""JSON as it is printed and written."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from sora_ref.errors import NO_TEXT

_OTHER = re.compile(r"[^\x00-\x7e]")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in UTF-8 that a terminal can be shown: what is no plain text in its strings stands there by its number.

    A score that is undefined, such as the correlation with a constant, is NaN in this project and null in JSON, which
    has no word for it.  So is an infinity.  Results that *must* be numbers are looked at before they come here: losses,
    parameters, logits.
    """
    text = json.dumps(_defined(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return _OTHER.sub(_plain, text)


def _plain(found: re.Match[str]) -> str:
    """Characters beyond ASCII stand in strings alone, where an escape means the same."""
    character = found[0]
    return json.dumps(character)[1:-1] if _hidden(character) else character


def _hidden(character: str) -> bool:
    return unicodedata.category(character) in NO_TEXT


def _defined(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
