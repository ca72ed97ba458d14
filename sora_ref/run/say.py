"""How a run says something to a person: a function that takes a line of text."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]
