"""Laws of PEFT's expressions in linear time: what is let through means what Python's `re` means by it."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.peft.patterns import FirstMatch, Work, compiled, is_name, require_pattern

PARTS = ("bert", "layer", "1", "11", "key", "query", "x_y", "a-b")
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(".".join)
PIECES = st.sampled_from(
    [
        *(*PARTS, ".", r"\.", ".*", "(a|key)", "[0-9]+", r"\d", r"\b", r"\W", "^", "$", "|", "(?:x)?", "e*?", "k{1,2}"),
        *("[a-k]", "[^k.]+", "(?i)", "(?i:KEY)", "(a|)", "{,2}", "[q[:alpha:]]", "(?P<x>y)", "++", "[]a]"),
    ]
)
EXPRESSIONS = st.lists(PIECES, min_size=1, max_size=6).map("".join)


KEY = r"(.*\.)?({})$"  # what PEFT pastes around a key


def allowed(expression: str, pasted: str = "{}") -> bool:
    try:
        require_pattern("here", expression, pasted)
    except SoRAError:
        return False
    return True


@given(EXPRESSIONS, NAMES)
def test_an_expression_matches_as_in_python(expression: str, name: str) -> None:
    if allowed(expression):
        expected = re.fullmatch(expression, name) is not None
        assert (compiled(expression).fullmatch(name) is not None) is expected


@given(
    st.lists(EXPRESSIONS | NAMES | NAMES.map(re.escape) | NAMES.map(lambda n: "^" + re.escape(n)), max_size=6), NAMES
)
def test_first_key_that_matches_holds_as_in_python(keys: list[str], name: str) -> None:
    table = {key: place for place, key in enumerate(key for key in keys if allowed(key, KEY))}
    matching = [place for key, place in table.items() if re.match(rf"(.*\.)?({key})$", name)]
    found = FirstMatch(table, "here")
    assert found.get(name, -1) == min(matching, default=-1)
    assert found.unmatched == [key for key, place in table.items() if place not in matching]


def test_names_are_looked_up_and_not_matched() -> None:
    names = [f"model.layers.{layer}.self_attn.{part}_proj" for layer in range(2_000) for part in "qkvo"]
    assert all(map(is_name, [*names, *("^" + re.escape(name) for name in names)]))
    table = FirstMatch({name: place for place, name in enumerate(names)}, "here")
    assert [table.get(name, -1) for name in names] == list(range(len(names)))
    assert table._compared == 0


def test_a_pattern_that_python_never_finishes_is_matched_at_once() -> None:
    expression = "(a+)+b"
    require_pattern("here", expression)
    assert compiled(expression).fullmatch("a" * 1_000) is None


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("(", "is no regular expression: missing"),
        ("(" * 100_000, "is no regular expression"),
        ("a" * 200_001 + "*", "has 200,002 characters"),
        (r"(?!a)b", "cannot be matched in linear time"),
        (r".*[q[:alpha:]]uery", "a class by name"),  # letters and marks to Python, a class to RE2
        (r"a{2}+b", "cannot be matched in linear time"),
        ("(?:[a-c]{1000}){110}", "cannot be matched in linear time"),
        ("\u0131", "characters of ASCII"),
        (r"(a)\1", "cannot be matched in linear time"),
        ("(?:a{1000}){1000}", "cannot be matched in linear time"),
        ("[[a]b]", "is no regular expression: Possible nested set"),
        ("a{,3}", "uses what is not read here as Python"),
        ("\ud800", "half a surrogate pair"),
    ],
)
def test_what_is_not_let_through_is_one_sentence(expression: str, sentence: str) -> None:
    with pytest.raises(SoRAError, match=re.escape(sentence)) as raised:
        require_pattern("here", expression)
    assert len(str(raised.value)) < 400


def test_many_expressions_for_many_modules_are_refused_before_they_take_minutes() -> None:
    table = FirstMatch({f"a{k}.*": k for k in range(600)}, "rank_pattern")
    with pytest.raises(SoRAError, match="600 expressions for this many modules"):
        [table.get(f"module{k}", 0) for k in range(200)]


def test_keys_of_many_shapes_are_refused_once_matching_has_taken_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by half a second when it is looked at: before and after each match."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: 0.5 * next(ticks))
    work = Work("here")
    tables = [FirstMatch({f"q.{letter}q": 1}, "rank_pattern", work) for letter in "ab"]
    for table in 2 * tables:
        assert table.get("layers.q", 0) == 0
    with pytest.raises(SoRAError, match="here: its names and expressions take too long to match with this many modul"):
        tables[0].get("layers.q", 0)


@given(EXPRESSIONS, NAMES, st.sampled_from([r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\."]))
def test_what_peft_pastes_around_an_expression_changes_nothing(expression: str, name: str, pasted: str) -> None:
    try:
        require_pattern("here", expression, pasted)
    except SoRAError:
        return
    whole = pasted.replace("{}", expression)
    expected, found = re.match(whole, name), compiled(whole).match(name)
    assert (found is None) is (expected is None)
    if expected is not None and found is not None:
        assert found.groupdict() == expected.groupdict()
