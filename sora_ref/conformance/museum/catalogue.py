"""All mistakes, in the order of the list of checks; a module holds those of one theme."""

from sora_ref.conformance.museum import (
    adam,
    dropout,
    forward,
    gates,
    gradients,
    initialisation,
    merging,
    pruning,
    schedules,
    steps,
    storage,
)
from sora_ref.conformance.museum.mistake import Mistake, collected

THEMES = (forward, dropout, gradients, gates, adam, steps, schedules, initialisation, pruning, merging, storage)
MISTAKES: tuple[Mistake, ...] = tuple(
    each for theme in THEMES for each in collected() if each.implementation.__module__ == theme.__name__
)
