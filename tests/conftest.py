"""Hypothesis profiles, and the array spaces every property runs in."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, Phase, settings
from strategies import Space, exact
from traceability import STRENGTHS

from sora_ref.backends import DeviceError, get

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the real hub

settings.register_profile(
    "ci", derandomize=True, max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "fast",
    derandomize=True,
    max_examples=5,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("deep", max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

SPACES = ("numpy", "read-only", "strict", "exact", "cupy")


@pytest.fixture(params=SPACES, scope="session")
def xp(request: pytest.FixtureRequest) -> Iterator[Space]:
    """numpy; numpy that catches mutated inputs; a stand-in for a GPU; the rationals; a GPU."""
    name: str = request.param
    if name == "cupy":
        pytest.importorskip("cupy", reason="CuPy is not installed: pip install 'sora_ref[cuda12]' on a GPU machine")
        try:
            get(name)
        except DeviceError as error:
            pytest.skip(str(error))
    if name == "strict":
        strict = pytest.importorskip("array_api_strict")
        strict.set_array_api_strict_flags(boolean_indexing=False, data_dependent_shapes=False)
        yield _on_device(name)
        strict.reset_array_api_strict_flags()
    else:
        yield _on_device(name) if name == "cupy" else Space(name, _ROADS[name], get(_BACKENDS.get(name, name)).to_host)


@pytest.fixture(scope="session")
def floats(xp: Space) -> Space:
    """The spaces with floating-point numbers."""
    if xp.exact:
        pytest.skip("a law of floating-point numbers")
    return xp


def _host(values: Any, dtype: str = "float64") -> npt.NDArray[Any]:
    return np.array(values, dtype=dtype)


def _read_only(values: Any, dtype: str = "float64") -> npt.NDArray[Any]:
    x = _host(values, dtype)
    x.flags.writeable = False
    return x


def _rational(values: Any, dtype: str = "float64") -> npt.NDArray[Any]:
    x: npt.NDArray[Any] = np.array(values, dtype) if dtype in ("bool", "int64") else exact(values)
    x.flags.writeable = False
    return x


def _on_device(name: str) -> Space:
    backend = get(name)
    return Space(name, lambda values, dtype="float64": backend.from_host(_host(values, dtype)), backend.to_host)


_BACKENDS = {"read-only": "numpy"}
_ROADS = {"numpy": _host, "read-only": _read_only, "exact": _rational}


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Write the marks of evidence into the report, so that what is counted is what ran."""
    if call.when == "call":
        item.user_properties += [("evidence", mark.name) for mark in item.iter_markers() if mark.name in STRENGTHS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many passed checks there are of each strength."""
    passed = [
        dict.fromkeys(value for key, value in report.user_properties if key == "evidence")
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call"
    ]
    counts = {strength: sum(strength in marks for marks in passed) for strength in STRENGTHS}
    if any(counts.values()):
        listed = ", ".join(f"{count} {strength}" for strength, count in counts.items() if count)
        terminalreporter.write_line(f"evidence, checks passed: {listed}")


@pytest.fixture(autouse=True, scope="session")
def usual_signals() -> None:
    """Ctrl-C and a hang-up do what they do at a terminal, here and in child processes, also below nohup or `&`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
