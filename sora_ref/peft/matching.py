r"""Which layers a configuration selects, at which rank and scale: PEFT's rules, as PEFT applies them on loading.

Names are full names, relative to the model that PEFT wraps.

Source: peft 0.21.2 (`check_target_module_exists`, `get_pattern_key`, `_set_trainable`), read and measured.  PEFT up to
0.14 matched the keys of rank_pattern and alpha_pattern as `.*\.key$`, and else looked the name itself up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from sora_ref.peft.config import LoraOptions, Names, as_list, listed
from sora_ref.peft.format import ROOT
from sora_ref.peft.patterns import MOST_EXPRESSIONS, FirstMatch, Work, compiled
from sora_ref.preconditions import require

ALL_LINEAR = "all-linear"
_CLASSIFIERS = ("classifier", "score")  # what PEFT adds to modules_to_save of a classifier, of sequences or tokens
_ADDED = {"SEQ_CLS": _CLASSIFIERS, "TOKEN_CLS": _CLASSIFIERS, "QUESTION_ANS": ("qa_outputs",)}
_OUTPUTS = ("lm_head", "cls.predictions.decoder")  # output embeddings, which "all-linear" leaves out
_PART = re.compile(r"[A-Za-z0-9_-]+")  # an entry that is one part of a name, and no more of an expression than that
_MOST = 50_000  # comparisons of a name with an expression


class Selection:
    """What a configuration says of each layer."""

    def __init__(self, options: LoraOptions, where: str) -> None:
        """where: the file, for a sentence."""
        self.options = options
        self.saved_entries = (*(options.modules_to_save or []), *_ADDED.get(options.task_type or "", ()))
        self._work = Work(where)
        self._ranks = FirstMatch(options.rank_pattern or {}, f"{where}: rank_pattern", self._work)
        self._alphas = FirstMatch(options.alpha_pattern or {}, f"{where}: alpha_pattern", self._work)
        self._saved_parts = {entry for entry in self.saved_entries if _PART.fullmatch(entry)}
        others = dict.fromkeys(entry for entry in self.saved_entries if entry not in self._saved_parts)
        require(
            len(others) <= MOST_EXPRESSIONS,
            f"{where}: modules_to_save has {len(others):,} names with dots: expected fewer",
        )
        self._saved = [compiled(rf"(?:^|.*\.){entry}(?:$|\..*)", where) for entry in others]
        self._targets = _Names(options.target_modules, self._work)
        self._excluded = _Names(options.exclude_modules, self._work)
        self._layers = [
            compiled(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.") for pattern in as_list(options.layers_pattern)
        ] or [compiled(r".*?\.[^.]*\.(?P<index>\d+)\.")]
        self._where, self._compared = where, 0

    def rank(self, full: str) -> int:
        """r_i of a layer."""
        return self._ranks.get(full, self.options.r)

    def scale(self, full: str) -> float:
        """s of a layer: α_i/r_i, or α_i/√r_i under rsLoRA."""
        r, alpha = self.rank(full), self._alphas.get(full, self.options.lora_alpha)
        return alpha / (math.sqrt(r) if self.options.use_rslora else r)

    def is_target(self, full: str, *, linear: bool = True) -> bool:
        """Whether PEFT gives this layer a LoRA.  linear: it is no embedding.

        Not where exclude_modules or modules_to_save names it; then as target_modules says, one expression for the
        whole name or a list by equality or dotted suffix, of which layers_to_transform keeps some.  "all-linear" is
        every linear layer but a head.  Without target_modules PEFT takes its default for the architecture.
        """
        self._compared += len(self._saved)
        require(
            self._compared <= _MOST, f"{self._where}: modules_to_save has {len(self._saved):,} names: expected fewer"
        )
        if self._excluded.match(full) or not self._saved_parts.isdisjoint(full.split(".")):
            return False
        if any(self._work.match(entry, full) is not None for entry in self._saved):
            return False
        targets = self.options.target_modules
        if targets is None:
            return True
        if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
            return linear and full not in _OUTPUTS
        if not self._targets.match(full):
            return False
        return isinstance(targets, str) or full in self._targets.names or self._in_layers(full)

    def notes(self, layers: Sequence[str], saved: Sequence[str]) -> list[str]:
        """What selects nothing of these layers with a LoRA, and modules in full: PEFT 0.21 warns of patterns."""
        found = [
            (f"{option} has {listed(table.unmatched)}, which matches no layer: PEFT ignores it")
            for option, table in (("rank_pattern", self._ranks), ("alpha_pattern", self._alphas))
            if table.unmatched
        ]
        ends = {end for layer in layers for end in _ends(layer)}
        unused = sorted(self._targets.names - ends)
        if unused:
            found.append(
                f"target_modules names {listed(unused)}, which have no tensors here: PEFT would begin such layers anew"
            )
        around = {name for module in saved for name in _beginnings(ROOT + module)}
        lengths = {len(entry) for entry in self.saved_entries}
        saved_ends = {name[-length:] for name in around for length in lengths}
        known = saved_ends.union(_CLASSIFIERS)
        absent = [entry for entry in self.options.modules_to_save or [] if entry not in known]
        if absent:
            found.append(
                f"modules_to_save names {listed(absent)}, of which there are no tensors: PEFT loads this only onto a "
                "model without such modules"
            )
        if self.options.target_modules is None:
            found.append("target_modules is not given: PEFT takes its default for the base model's architecture")
        return found

    def _in_layers(self, full: str) -> bool:
        chosen = self.options.layers_to_transform
        if chosen is None or chosen == []:
            return True
        matches = (self._work.match(pattern, full) for pattern in self._layers)
        found = next((match for match in matches if match is not None), None)
        index = None if found is None else found.group("index")
        if index is None:  # an alternative of the pattern may match without the number
            return False
        return int(index) in ([chosen] if isinstance(chosen, int) else chosen)


class _Names:
    """target_modules or exclude_modules: an expression for whole names, or names and dotted ends of names."""

    def __init__(self, given: Names, work: Work) -> None:
        self._work = work
        self._expression = compiled(given) if isinstance(given, str) and given.lower() != ALL_LINEAR else None
        self.names = frozenset() if isinstance(given, str) else frozenset(given or [])

    def match(self, full: str) -> bool:
        """Whether this names the module."""
        if self._expression is not None:
            return self._work.fullmatch(self._expression, full)
        return not self.names.isdisjoint(_ends(full))


def _ends(full: str) -> list[str]:
    """The name and what follows each of its dots."""
    parts = full.split(".")
    return [".".join(parts[begin:]) for begin in range(len(parts))]


def _beginnings(full: str) -> list[str]:
    """The name, and what stands in front of each of its dots."""
    parts = full.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
