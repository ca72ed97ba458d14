"""The head alone, on the frozen model: the control that every adapter has to beat."""

from __future__ import annotations

from sora_ref import training_step
from sora_ref.methods.method import Method

HEAD = Method(name="head", title="the head alone", add=None, step=training_step)
