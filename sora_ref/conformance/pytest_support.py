"""The checks as tests of pytest, in a test file of one's own.

    @parametrize_with_checks([MySoRA()], expected_failures={"SORA-PROX-3": "known, ticket 12"})
    def test_sora(adapter, check):
        check(adapter)

The same list runs without pytest, by `check_adapter` or one by one by `run_check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from sora_ref.conformance.adapter import Adapter
from sora_ref.conformance.loading import as_adapter
from sora_ref.conformance.refusal import Refusal
from sora_ref.conformance.registry import Check, Level, known_ids, select
from sora_ref.conformance.report import outcome_lines
from sora_ref.conformance.runner import EXAMPLES, run_check, subject_of
from sora_ref.errors import SoRAError


@dataclass(frozen=True, repr=False)
class Call:
    """A check that a test calls with an adapter: it returns, or raises Refusal, or skips with the reason."""

    check: Check
    dtype: str | None = None
    seed: int = 0
    max_examples: int = EXAMPLES

    def __call__(self, adapter: Adapter) -> None:
        """Run the check."""
        __tracebackhide__ = True
        outcome = run_check(
            subject_of(adapter, self.dtype)[0], self.check, seed_=self.seed, max_examples=self.max_examples
        )
        if outcome.status == "skipped":
            pytest.skip(outcome.reason)
        if outcome.status != "passed":
            raise Refusal("\n".join(outcome_lines(outcome, self.seed, self.max_examples)))

    def __repr__(self) -> str:
        return f"<check {self.check.id}>"


def parametrize_with_checks(
    adapters: Any,
    *,
    expected_failures: Mapping[str, str] | None = None,
    level: Level = "full",
    dtype: str | None = None,
    seed: int = 0,
    max_examples: int = EXAMPLES,
    only: Iterable[str] = (),
) -> pytest.MarkDecorator:
    """A decorator that calls test(adapter, check) for every adapter and every check of a level, or those named.

    adapters:          a list of adapters, their classes, or functions that make one; or one of these.
    expected_failures: by check or clause id, why it is known not to hold; a test of such a check is a strict xfail.
    The others are as in `check_adapter`.  Raises SoRAError, when tests are collected, for what is no adapter and for
    ids that are none.
    """
    return pytest.mark.parametrize(
        ("adapter", "check"),
        parameters(
            adapters,
            expected_failures=expected_failures,
            level=level,
            dtype=dtype,
            seed=seed,
            max_examples=max_examples,
            only=only,
        ),
    )


def parameters(
    adapters: Any,
    *,
    expected_failures: Mapping[str, str] | None = None,
    level: Level = "full",
    dtype: str | None = None,
    seed: int = 0,
    max_examples: int = EXAMPLES,
    only: Iterable[str] = (),
) -> list[Any]:
    """The parameters of `parametrize_with_checks`, called Adapter-CHECK."""
    several = isinstance(adapters, Iterable) and not isinstance(adapters, type)
    found = [as_adapter(each) for each in (adapters if several else [adapters])]
    if not found:
        raise SoRAError("parametrize_with_checks has no adapters: expected one at least")
    expected = dict(expected_failures or {})
    known_ids(expected)
    for adapter in found:
        subject_of(adapter, dtype)  # says now what is wrong with its declarations
    checks = select(level, only)
    return [
        pytest.param(
            adapter,
            Call(each, dtype, seed, max_examples),
            id=f"{name}-{each.id}",
            marks=_expected(each, expected),
        )
        for adapter, name in zip(found, _names(found), strict=True)
        for each in checks
    ]


def _expected(check: Check, expected: Mapping[str, str]) -> tuple[pytest.MarkDecorator, ...]:
    reason = expected.get(check.id, expected.get(check.clause))
    return () if reason is None else (pytest.mark.xfail(reason=reason, strict=True, raises=Refusal),)


def _names(adapters: list[Adapter]) -> list[str]:
    """Their classes' names, with a number where two are called the same."""
    classes = [type(adapter).__name__ for adapter in adapters]
    return [
        f"{name}{classes[: k + 1].count(name)}" if classes.count(name) > 1 else name for k, name in enumerate(classes)
    ]
