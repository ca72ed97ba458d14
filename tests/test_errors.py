"""How a sentence quotes what came from outside."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import printable, shown


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
