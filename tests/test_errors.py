"""How a sentence quotes what came from outside."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import LONGEST, SoRAError, brief, one_line, printable, shown


@given(st.text())
def test_nothing_printed_commands_a_terminal(text: str) -> None:
    assert not any(unicodedata.category(c)[0] == "C" for c in printable(text) if c != "\n")


def test_plain_text_stays_and_what_is_none_is_escaped() -> None:
    assert printable("naïve 数 – fine") == "naïve 数 – fine"
    assert printable("\x1b[2J\x9b\u202e") == "\\x1b[2J\\x9b\\u202e"


@given(st.text() | st.lists(st.text()) | st.integers())
def test_a_quoted_value_is_short(value: object) -> None:
    assert len(shown(value)) <= 83


def test_a_short_value_is_quoted_whole_and_a_long_one_is_cut() -> None:
    assert shown("beta") == "'beta'"
    assert shown("x" * 80) == repr("x" * 80)
    assert shown("x" * 389_000) == "'" + "x" * 79 + "…"


@given(st.text(max_size=3000) | st.text(min_size=1).map(lambda text: text * 500))
def test_a_line_of_ours_is_one_printable_line_of_bounded_length(text: str) -> None:
    for line, most in ((one_line(text), LONGEST), (brief(text), 241)):
        assert len(line) <= most
        assert "\n" not in line
        assert not any(unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp") for c in line)


def test_a_long_line_keeps_its_end_where_what_was_expected_stands() -> None:
    line = one_line(f"a.toml: {'x' * 5000}: expected a table")
    assert line.startswith("a.toml: xxx")
    assert line.endswith("xxx: expected a table")
    assert "…" in line


def test_a_value_whose_repr_fails_is_quoted_by_its_type() -> None:
    """Python refuses to write an int of 5,000 digits, and to walk down lists without end."""
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(10**5000) == "a value of type int"
    assert shown(nested) == "a value of type list"
    while nested:  # let it go level by level
        nested = nested[0]  # type: ignore[assignment]


@given(st.text())
def test_a_sentence_is_printable_whatever_it_was_made_of(text: str) -> None:
    sentence = str(SoRAError(f"{text}: no such file: expected one"))
    assert sentence == printable(sentence) == printable(f"{text}: no such file: expected one")
