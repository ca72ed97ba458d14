"""Configurations of earlier versions, in the form of today: old run directories open, and go on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sora_ref.errors import shown
from sora_ref.preconditions import require


def in_todays_form(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of these tables, with the keys of earlier versions replaced by what they mean.

    adapter.gated = false -> method = "lora"        adapter.norms = true  -> "norms" in train.also
    adapter.kinds = []    -> method = "head"        adapter.biases = true -> "biases" in train.also

    Raises SoRAError where such a key is neither true nor false, or stands beside the one that took its place.
    """
    today: dict[str, Any] = copy.deepcopy(dict(tree))
    adapter = today.get("adapter")
    if not isinstance(adapter, dict):
        return today  # none, or a fault that is said elsewhere
    gated = _taken(adapter, "gated", default=True)
    own = [group for group in ("norms", "biases") if _taken(adapter, group, default=False)]
    if not gated:
        _require_alone("method" not in today, "gated", "method")
    if "method" not in today:
        today["method"] = "head" if adapter.get("kinds") == [] else "sora" if gated else "lora"
    train = today.get("train", {})
    if own and isinstance(train, dict):  # else a fault that is said elsewhere
        _require_alone("also" not in train, own[0], "train.also")
        today["train"] = {**train, "also": own}
    return today


def _taken(adapter: dict[str, Any], key: str, *, default: bool) -> bool:
    value = adapter.pop(key, default)
    require(isinstance(value, bool), f"adapter.{key} is {shown(value)}: expected true or false")
    return bool(value)


def _require_alone(alone: bool, former: str, now: str) -> None:
    require(alone, f"adapter.{former} and {now} are both there: expected {now} alone, which took its place")
