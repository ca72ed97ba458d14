"""The rooms of the museum, in the order of the list of checks, and all that they show."""

from sora_ref.conformance.museum import (
    adam,
    beginnings,
    dropout,
    forward,
    gates,
    gradients,
    merging,
    pruning,
    schedules,
    steps,
    storage,
)
from sora_ref.conformance.museum.collection import Mistake, collected

ROOMS = (forward, dropout, gradients, gates, adam, steps, schedules, beginnings, pruning, merging, storage)
MISTAKES: tuple[Mistake, ...] = tuple(
    each for room in ROOMS for each in collected() if each.adapter.__module__ == room.__name__
)
