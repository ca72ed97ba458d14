"""The gates that survived, beside those that thresholds alone would leave (SORA-NULL-1)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sora_ref import released_threshold, survival_probability
from sora_ref.methods.method import Ending, Survivors


def survivors(ending: Ending) -> Survivors:
    """Who survived, in numbers and words."""
    null = null_model(ending)
    return Survivors(null, in_words(ending, null))


def null_model(ending: Ending) -> dict[str, float] | None:
    """What thresholds alone would leave, no gradient on the gates at all.

    None under the sparsifying scheduler, or where the rule's threshold is no single number.
    """
    rule = ending.rule
    if rule.scalar_amount(0.0, 0.0) is None or ending.scheduled:
        return None
    cut = ending.threshold_sum
    if rule.threshold is released_threshold and ending.steps:
        cut += ending.threshold_sum / ending.steps  # its dead zone is one threshold wider
    share = survival_probability(cut) if ending.gate is None else float(abs(ending.gate) > cut)
    return {"threshold_sum": cut, "kept_share": share, "kept": share * ending.components}


def in_words(ending: Ending, null: Mapping[str, float] | None) -> str:
    """Whether the survivors are what thresholds alone predict.

    Gates drawn from N(0, 1) survive alone as independent draws with the null's share p, so n of them leave
    n·p ± √(n·p·(1−p)); a number within two of these standard deviations is what chance gives, which does not prove that
    the data had no say.  Gates that begin at one number survive all or not at all.
    """
    kept, components, gate = ending.kept, ending.components, ending.gate
    found = f"{kept} of {components}"
    if null is None:
        why = "under the scheduler" if ending.scheduled else f"for rule {ending.rule.name}"
        return f'{found}; there is no null model {why}: a run with gate.gradient = "zero" shows what chance keeps'
    if ending.gate_gradient == "zero":
        return f"{found}; thresholds alone would keep {null['kept']:.1f}: the data had no say (gate.gradient is zero)"
    if gate is None:
        spread = math.sqrt(components * null["kept_share"] * (1 - null["kept_share"]))
        chance = f"{found}; thresholds alone would keep {null['kept']:.1f} ± {spread:.1f}"
        if abs(kept - null["kept"]) <= 2 * spread:
            return f"{chance}: within chance: nothing in their number says that the data chose them"
        return f"{chance}: the data chose"
    sums = f"the thresholds add up to {null['threshold_sum']:.3g}, gates began at {gate:g}"
    if null["kept"] == 0:
        verdict = "the data chose" if kept else "none outlived the thresholds; lower gate.strength"
        return f"{found}; thresholds alone would keep none ({sums}): {verdict}"
    if kept == components:
        total = null["threshold_sum"]
        enough = f" ({2 * abs(gate) / total:.2g} times as high)" if total else ""
        verdict = f"the data did not choose them; raise gate.strength or gate.lr{enough}, or train longer"
        return f"{found}; thresholds alone would keep all ({sums}): {verdict}"
    return f"{found}; thresholds alone would keep all ({sums}): the data chose which went, not which stayed"
