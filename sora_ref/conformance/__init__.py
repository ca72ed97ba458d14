"""The conformance kit: is this implementation of SoRA one?

Show an implementation to the kit as a subclass of `Implementation`.  Then `check_implementation` runs the checks; so do
`sora-ref check` from the command line, and `parametrize_with_checks` in a test file of yours.

| room | who touches it |
|---|---|
| `protocol` | an implementer: the class to subclass, what it is given, what it declares |
| `engine` | nobody: how a check is run and how numbers are compared |
| `checks` | an author of checks |
| `frontends` | whoever runs the kit: a function, pytest, reports |
| `museum` | an author of checks: wrong implementations, which the kit has to refuse |
| `golden` | an implementer in another language: the checks as files |

`protocol` ← `engine` ← `checks` ← `frontends`, `museum` and `golden`, which do not import each other.
"""

import warnings
from typing import Any

from sora_ref.conformance.checks.catalogue import all_checks, select
from sora_ref.conformance.engine.check import Check
from sora_ref.conformance.engine.outcome import Outcome, Report
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.runner import run_check
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.frontends.call import check_implementation
from sora_ref.conformance.protocol.choices import VARIANTS, Choices
from sora_ref.conformance.protocol.implementation import Implementation, capabilities
from sora_ref.conformance.protocol.jax_base import JaxImplementation
from sora_ref.conformance.protocol.layer import Layer, Plan, Triple
from sora_ref.conformance.protocol.storage_layout import StorageLayout
from sora_ref.conformance.protocol.torch_base import TorchImplementation

__all__ = [
    "VARIANTS",
    "Check",
    "Choices",
    "Implementation",
    "JaxImplementation",
    "Layer",
    "Outcome",
    "Plan",
    "Refusal",
    "Report",
    "StorageLayout",
    "Subject",
    "TorchImplementation",
    "Triple",
    "all_checks",
    "capabilities",
    "check_implementation",
    "parametrize_with_checks",
    "run_check",
    "select",
]

# Old names and the new ones; they go with the release after 0.1.
_RENAMED = {"Adapter": "Implementation", "Layout": "StorageLayout", "check_adapter": "check_implementation"}


def __getattr__(name: str) -> Any:
    """`parametrize_with_checks`, and pytest with it, only where it is asked for; old names, with a warning."""
    if name == "parametrize_with_checks":
        from sora_ref.conformance.frontends.parametrize import parametrize_with_checks

        return parametrize_with_checks
    if name in _RENAMED:
        new = _RENAMED[name]
        message = f"sora_ref.conformance.{name} is called {new} now: the old name goes with the release after 0.1"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return globals()[new]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
