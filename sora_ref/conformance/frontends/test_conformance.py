"""Every check as a test: pytest --pyargs sora_ref.conformance --sora-impl pkg.module:Name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from sora_ref.conformance.protocol.implementation import Implementation

if TYPE_CHECKING:
    from sora_ref.conformance.frontends.parametrize import Call
    from sora_ref.conformance.frontends.pytest_plugin import Conformance


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The checks of the level that is asked for."""
    plugin: Conformance | None = metafunc.config.pluginmanager.get_plugin("sora_ref.conformance")
    if plugin is None:
        raise pytest.Collector.CollectError("no implementation to check: expected --sora-impl pkg.module:Name")
    metafunc.parametrize(("implementation", "check"), plugin.parameters)


def test_sora(implementation: Implementation, check: Call, record_property: Callable[[str, object], None]) -> None:
    """One check."""
    record_property("sora_check", check.check.id)
    check(implementation)
