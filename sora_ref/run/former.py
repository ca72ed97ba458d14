"""Configurations of earlier versions, in the form of today: old run directories open, and go on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sora_ref.errors import shown
from sora_ref.preconditions import require

_OWN = ("norms", "biases")


def in_todays_form(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of these tables, with the keys of earlier versions replaced by what they mean.

    adapter.gated = false -> method = "lora"        adapter.norms = true  -> "norms" in train.also
    adapter.kinds = []    -> method = "head"        adapter.biases = true -> "biases" in train.also

    Raises SoRAError where such a key is neither true nor false, or stands beside the one that took its place.
    """
    today: dict[str, Any] = copy.deepcopy(dict(tree))
    adapter, train = today.get("adapter"), today.get("train", {})
    if not isinstance(adapter, dict):
        return today  # none, or a fault that is said elsewhere
    _require_alone("gated", adapter, "method", "method" in today)
    gated = _taken(adapter, "gated", default=True)
    if "method" not in today:
        today["method"] = "head" if adapter.get("kinds") == [] else "sora" if gated else "lora"
    for group in _OWN:
        _require_alone(group, adapter, "train.also", isinstance(train, dict) and "also" in train)
    own = [group for group in _OWN if _taken(adapter, group, default=False)]
    if own and isinstance(train, dict):
        today["train"] = {**train, "also": own}
    return today


def make_way(tree: dict[str, Any], dotted: str) -> None:
    """Let the tables say what they say of a matter in the form in which this key, about to be put on top, says it.

    So a key of an earlier version goes on top of a file of today, and a key of today on top of a file of an earlier
    version, and either wins as any override does.
    """
    adapter, train = tree.get("adapter", {}), tree.get("train", {})
    if not isinstance(adapter, dict) or not isinstance(train, dict):
        return  # a fault that is said elsewhere
    if dotted == "method":
        adapter.pop("gated", None)
    elif dotted == "train.also":
        for group in _OWN:
            adapter.pop(group, None)
    elif dotted == "adapter.gated" and tree.get("method") in ("head", "lora", "sora"):
        method = tree.pop("method")
        tree["adapter"] = adapter | {"gated": method != "lora"} | ({"kinds": []} if method == "head" else {})
    elif dotted in ("adapter.norms", "adapter.biases") and isinstance(train.get("also"), list):
        also = train.pop("also")
        tree["adapter"] = adapter | {group: group in also for group in _OWN}


def _taken(adapter: dict[str, Any], key: str, *, default: bool) -> bool:
    value = adapter.pop(key, default)
    require(isinstance(value, bool), f"adapter.{key} is {shown(value)}: expected true or false")
    return bool(value)


def _require_alone(former: str, adapter: Mapping[str, Any], now: str, there: bool) -> None:
    both = there and former in adapter
    require(not both, f"adapter.{former} and {now} are both there: expected {now} alone, which took its place")
