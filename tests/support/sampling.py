"""What `make test` takes of a sweep; `make test-deep` takes the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sample(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """All cases of a sweep for `parametrize`: those chosen as they are, the others deep; a tuple is several arguments.

    Raises ValueError where a chosen one is none of the cases.
    """
    cases = list(cases)
    if unknown := [case for case in chosen if case not in cases]:
        raise ValueError(f"{unknown} are no cases of the sweep")
    return [case if case in chosen else _deep(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def _deep(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.deep)
