"""The checks as tests of pytest, in a test file of one's own.

    @parametrize_with_checks([MySoRA()], expected_failures={"SORA-PROX-3": "known, ticket 12"})
    def test_sora(implementation, check):
        check(implementation)

The same list runs without pytest, by `check_implementation` or one by one by `run_check`.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pytest

from sora_ref.conformance.checks.catalogue import known_ids, select
from sora_ref.conformance.engine.check import Check, Level
from sora_ref.conformance.engine.declarations import subject_of
from sora_ref.conformance.engine.loading import as_implementation
from sora_ref.conformance.engine.refusal import Refusal
from sora_ref.conformance.engine.runner import EXAMPLES, run_check
from sora_ref.conformance.frontends.text import outcome_lines
from sora_ref.conformance.protocol.implementation import Implementation
from sora_ref.errors import SoRAError

Test = TypeVar("Test", bound=Callable[..., None])


@dataclass(frozen=True, repr=False)
class Call:
    """A check that a test calls with an implementation: it returns, or raises Refusal, or skips with the reason."""

    check: Check
    dtype: str | None = None
    seed: int = 0
    max_examples: int = EXAMPLES

    def __call__(self, implementation: Implementation) -> None:
        """Run the check."""
        __tracebackhide__ = True
        outcome = run_check(
            subject_of(implementation, self.dtype)[0], self.check, seed_=self.seed, max_examples=self.max_examples
        )
        if outcome.status == "skipped":
            pytest.skip(outcome.reason)
        if outcome.status != "passed":
            raise Refusal("\n".join(outcome_lines(outcome, self.seed, self.max_examples)))

    def __repr__(self) -> str:
        return f"<check {self.check.id}>"


def parametrize_with_checks(
    implementations: Any,
    *,
    expected_failures: Mapping[str, str] | None = None,
    level: Level = "full",
    dtype: str | None = None,
    seed: int = 0,
    max_examples: int = EXAMPLES,
    only: Iterable[str] = (),
) -> Callable[[Test], Test]:
    """A decorator: test(implementation, check) is called for every implementation and every check of a level.

    implementations:   a list of implementations, their classes, or functions that make one; or one of these.
    expected_failures: by check or clause id, why it is known not to hold; a test of such a check is a strict xfail.
    The others are as in `check_implementation`.  A test may still call its first argument `adapter`, until the release
    after 0.1.  Raises SoRAError, when tests are collected, for what is no implementation and for ids that are none.
    """
    found = parameters(
        implementations,
        expected_failures=expected_failures,
        level=level,
        dtype=dtype,
        seed=seed,
        max_examples=max_examples,
        only=only,
    )

    def decorate(test: Test) -> Test:
        first, asked = "implementation", inspect.signature(test).parameters
        if "adapter" in asked and first not in asked:
            first = "adapter"
            message = f"{test.__name__}: call its argument `adapter` `implementation`, as the release after 0.1 will"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return cast(Test, pytest.mark.parametrize((first, "check"), found)(test))

    return decorate


def parameters(
    implementations: Any,
    *,
    expected_failures: Mapping[str, str] | None = None,
    level: Level = "full",
    dtype: str | None = None,
    seed: int = 0,
    max_examples: int = EXAMPLES,
    only: Iterable[str] = (),
) -> list[Any]:
    """The parameters of `parametrize_with_checks`, called Class-CHECK."""
    several = isinstance(implementations, Iterable) and not isinstance(implementations, type)
    found = [as_implementation(each) for each in (implementations if several else [implementations])]
    if not found:
        raise SoRAError("parametrize_with_checks has no implementations: expected one at least")
    expected = dict(expected_failures or {})
    known_ids(expected)
    for implementation in found:
        subject_of(implementation, dtype)  # says now what is wrong with its declarations
    checks = select(level, only)
    return [
        pytest.param(
            implementation,
            Call(each, dtype, seed, max_examples),
            id=f"{name}-{each.id}",
            marks=_expected(each, expected),
        )
        for implementation, name in zip(found, _names(found), strict=True)
        for each in checks
    ]


def _expected(check: Check, expected: Mapping[str, str]) -> tuple[pytest.MarkDecorator, ...]:
    reason = expected.get(check.id, expected.get(check.clause))
    return () if reason is None else (pytest.mark.xfail(reason=reason, strict=True, raises=Refusal),)


def _names(implementations: list[Implementation]) -> list[str]:
    """Their classes' names, with a number where two are called the same."""
    classes = [type(implementation).__name__ for implementation in implementations]
    return [
        f"{name}{classes[: k + 1].count(name)}" if classes.count(name) > 1 else name for k, name in enumerate(classes)
    ]
