"""Where Numba cannot be imported, the modules of this folder are skipped, and say why."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from numba_here import MISSING


class Skipped(pytest.Module):
    """A module that is not imported."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        pytest.skip(str(MISSING), allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return None if MISSING is None else Skipped.from_parent(parent, path=module_path)
