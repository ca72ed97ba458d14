"""Every check as a test: pytest --pyargs sora_ref.conformance --sora-impl pkg.module:Adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from sora_ref.conformance.adapter import Adapter

if TYPE_CHECKING:
    from sora_ref.conformance.plugin import Conformance
    from sora_ref.conformance.pytest_support import Call


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The checks of the level that is asked for."""
    plugin: Conformance | None = metafunc.config.pluginmanager.get_plugin("sora_ref.conformance")
    if plugin is None:
        raise pytest.Collector.CollectError("no implementation to check: expected --sora-impl pkg.module:Adapter")
    metafunc.parametrize(("adapter", "check"), plugin.parameters)


def test_sora(adapter: Adapter, check: Call, record_property: Callable[[str, object], None]) -> None:
    """One check."""
    record_property("sora_check", check.check.id)
    check(adapter)
