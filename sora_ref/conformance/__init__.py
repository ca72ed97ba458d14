"""The conformance kit: is this implementation of SoRA one?

Show an implementation to the kit as an `Adapter`; `check_adapter` runs the checks, `sora-ref check` does so from the
command line, and `parametrize_with_checks` in a test file of yours.
"""

from typing import Any

from sora_ref.conformance.adapter import Adapter, Layer, Layout, Plan, Triple, capabilities
from sora_ref.conformance.choices import VARIANTS, Choices
from sora_ref.conformance.refusal import Refusal
from sora_ref.conformance.registry import Check, all_checks, select
from sora_ref.conformance.runner import Outcome, Report, check_adapter, run_check
from sora_ref.conformance.subject import Subject

__all__ = [
    "VARIANTS",
    "Adapter",
    "Check",
    "Choices",
    "Layer",
    "Layout",
    "Outcome",
    "Plan",
    "Refusal",
    "Report",
    "Subject",
    "Triple",
    "all_checks",
    "capabilities",
    "check_adapter",
    "parametrize_with_checks",
    "run_check",
    "select",
]


def __getattr__(name: str) -> Any:
    """`parametrize_with_checks`, and pytest with it, only where it is asked for."""
    if name == "parametrize_with_checks":
        from sora_ref.conformance.pytest_support import parametrize_with_checks

        return parametrize_with_checks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
