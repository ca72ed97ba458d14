"""The options of sora_ref's pytest plugin, and nothing else until --sora-impl is given.

pytest imports the plugins of all that is installed, in every session of everybody; this module stands outside the
package, so that nothing of that is loaded in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

NAME = "sora_ref.conformance"
USAGE = "pytest --pyargs sora_ref.conformance --sora-impl pkg.module:Name"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("sora_ref", f"conformance to the specification of SoRA: {USAGE}")
    group.addoption("--sora-impl", metavar="PKG.MODULE:NAME", help="the implementation to check")
    group.addoption("--sora-level", choices=("core", "full"), default="full", help="what is required of it")
    group.addoption("--sora-dtype", choices=("float64", "float32"), help="of the arrays; its best by default")
    group.addoption("--sora-seed", type=int, default=0, metavar="N", help="equal seeds, equal examples")
    group.addoption("--sora-max-examples", type=int, metavar="N", help="for every check")
    group.addoption("--sora-expect-failure", action="append", default=[], metavar="ID=REASON", help="a strict xfail")


def pytest_configure(config: pytest.Config) -> None:
    """Load what does the work, if it is asked for."""
    if config.getoption("--sora-impl"):
        _load(config)
    elif config.getoption("pyargs") and any(each.startswith(NAME) for each in config.args):
        import pytest

        raise pytest.UsageError(f"no implementation to check: expected --sora-impl, as in {USAGE}")


def _load(config: pytest.Config) -> None:
    import pytest

    try:
        from sora_ref.conformance.frontends.pytest_plugin import Conformance
        from sora_ref.errors import SoRAError
    except ModuleNotFoundError as error:
        if str(error.name).startswith("sora_ref"):
            raise
        raise pytest.UsageError(
            f"--sora-impl needs more packages ({error.name} is missing): pip install 'sora_ref[check]'"
        ) from error
    try:
        plugin = Conformance(config)
    except SoRAError as error:
        raise pytest.UsageError(" ".join(str(error).split())) from error
    config.pluginmanager.register(plugin, NAME)
