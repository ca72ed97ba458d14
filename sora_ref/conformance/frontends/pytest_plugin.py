"""What `pytest --sora-impl pkg.module:Name` does: the tests' parameters, a line in the header, and the summary."""

from __future__ import annotations

from typing import Any

import pytest

from sora_ref import SPEC_VERSION
from sora_ref.conformance.checks.catalogue import all_checks
from sora_ref.conformance.engine.check import Level
from sora_ref.conformance.engine.declarations import subject_of
from sora_ref.conformance.engine.loading import load
from sora_ref.conformance.engine.outcome import Outcome, Report, Status
from sora_ref.conformance.engine.runner import EXAMPLES
from sora_ref.conformance.frontends.expected import expected_failures
from sora_ref.conformance.frontends.parametrize import parameters
from sora_ref.conformance.frontends.text import counted, settings, standing
from sora_ref.conformance.protocol.implementation import capabilities
from sora_ref.errors import SoRAError

CHECK = "sora_check"  # the property of a test that names its check


class Conformance:
    """The plugin, once there is something to check; SoRAError where that cannot be."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        self.address: str = option("sora_impl")
        self.level: Level = option("sora_level")
        self.seed: int = option("sora_seed")
        self.max_examples: int = EXAMPLES if option("sora_max_examples") is None else option("sora_max_examples")
        if self.max_examples < 1:
            raise SoRAError(f"--sora-max-examples is {self.max_examples}: expected at least 1")
        implementation = load(self.address)
        self.subject = subject_of(implementation, option("sora_dtype"))[0]
        self.parameters = parameters(
            [implementation],
            expected_failures=expected_failures(option("sora_expect_failure")),
            level=self.level,
            dtype=option("sora_dtype"),
            seed=self.seed,
            max_examples=self.max_examples,
        )
        self.outcomes: dict[str, Outcome] = {}
        for name in ("python_files", "python_functions"):  # the user's own may not match ours
            config.addinivalue_line(
                name, {"python_files": "test_conformance.py", "python_functions": "test_sora"}[name]
            )

    def pytest_report_header(self) -> str:
        """What is checked."""
        judged = f"{self.subject.dtype} arrays, judged by the bounds of {self.subject.precision.name}"
        drawn = settings(self.seed, self.max_examples)
        return f"SoRA: {self.address}, specification {SPEC_VERSION}, level {self.level}, {judged}, {drawn}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what became of a check; `user_properties` come from other processes too."""
        name = dict(report.user_properties).get(CHECK)
        if report.when == "call" and isinstance(name, str):
            status, reason = _status(report)
            found = next(each for each in all_checks() if each.id == name)
            self.outcomes[name] = Outcome(found, status, reason, seconds=report.duration)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The counts, and the badge or what is missing."""
        terminalreporter.write_sep("=", "conformance to the specification of SoRA")
        if not self.outcomes:
            terminalreporter.write_line("no check was run: expected --pyargs sora_ref.conformance among the arguments")
            return
        report = self.report()
        for line in (f"{report.name} ({self.address}): {counted(report)}", *standing(report)):
            terminalreporter.write_line(line)

    def report(self) -> Report:
        """The run so far."""
        implementation = self.subject.implementation
        return Report(
            name=self.subject.name,
            level=self.level,
            dtype=self.subject.dtype,
            precision=self.subject.precision.name,
            spec_version=SPEC_VERSION,
            targets=implementation.spec_version,
            choices=implementation.choices.describe(),
            seed=self.seed,
            max_examples=self.max_examples,
            capabilities=capabilities(implementation),
            outcomes=tuple(self.outcomes[each.id] for each in all_checks() if each.id in self.outcomes),
        )


def _status(report: pytest.TestReport) -> tuple[Status, str]:
    """A test's outcome as one of ours, and the reason of a skip or of an expected failure."""
    if hasattr(report, "wasxfail"):
        return ("xfailed" if report.skipped else "xpassed"), report.wasxfail.removeprefix("reason: ")
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        return "skipped", reason.removeprefix("Skipped: ")
    if report.failed:
        strict = str(report.longrepr).startswith("[XPASS(strict)]")
        return ("xpassed" if strict else "failed"), ""
    return "passed", ""
