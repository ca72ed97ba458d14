"""Documents become values of a type, or one printable sentence with the file, the line and the field."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from sora_ref.errors import SoRAError
from sora_ref.storage.documents import convert, decode_json, decode_toml, read_json, read_toml
from sora_ref.storage.logs import json_lines

DEEP = 100_000


class Inner(Struct):
    names: list[str]


class Outer(Struct):
    step: int
    inner: Inner
    loss: float = 0.0


GOOD = b'{"step": 1, "inner": {"names": ["a"]}, "more": [1]}'

WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "damaged, not JSON (Input data was truncated)"),
    "cut": (GOOD[:-1], "damaged, not JSON"),
    "two": (GOOD + GOOD, "damaged, not JSON"),
    "no text": (b'{"step": 1, "inner": {"names": ["\xff"]}}', "damaged, not JSON"),
    "half a character": (b'{"step": 1, "inner": {"names": ["\\ud800"]}}', "damaged, not JSON"),
    "NaN": (b'{"step": 1, "inner": {"names": []}, "loss": NaN}', "damaged, not JSON"),
    "infinite": (b'{"step": 1, "inner": {"names": []}, "loss": 1e999}', "loss: damaged (Number out of range)"),
    "another": (b"[]", "damaged (Expected `object`, got `array`)"),
    "field missing": (b'{"inner": {"names": []}}', "damaged (Object missing required field `step`)"),
    "field of another type": (b'{"step": true, "inner": {"names": []}}', "step: damaged (Expected `int`, got `bool`)"),
    "inner field": (b'{"step": 1, "inner": {"names": [null]}}', "inner.names[0]: damaged (Expected `str`, got `null`)"),
    "too many digits": (b'{"step": ' + b"9" * 5000 + b"}", "step: damaged (Integer value out of range)"),
    "lists without end": (b"[" * DEEP, "damaged (Expected `object`, got `array`)"),
    "objects without end": (b'{"more":' * DEEP, "damaged, not JSON"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_document_that_is_wrong_is_one_sentence_with_its_field(kind: str, tmp_path: Path) -> None:
    data, said = WRONG[kind]
    path = tmp_path / "it.json"
    path.write_bytes(data)
    with pytest.raises(SoRAError) as refused:
        read_json(path, Outer, "a thing")
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ")
    assert said in sentence or "nested too deeply" in sentence
    assert sentence.endswith(": expected a thing")
    assert sentence.isprintable()


@pytest.mark.parametrize(
    "decode",
    [
        lambda: decode_json(b"[" * DEEP, Any, "it", "a thing"),
        lambda: decode_json(b'{"a":' * DEEP, Any, "it", "a thing"),
        lambda: decode_toml("a = " + "[" * DEEP, "it", "a thing"),
        lambda: decode_toml("a = " + "[" * 3000 + "]" * 3000, "it", "a thing"),
        lambda: decode_toml("a = " + "{b=" * DEEP, "it", "a thing"),
        lambda: decode_toml("a = " + f"{{{'.'.join('b' * 90)} = " * 50 + "1" + "}" * 50, "it", "a thing"),
        lambda: decode_toml("a = " + "[" * 101 + "]" * 101, "it", "a thing"),
    ],
)
def test_nesting_without_end_is_a_sentence(decode: Callable[[], object]) -> None:
    with pytest.raises(SoRAError, match=r"^it: nested too deeply: expected a thing$"):
        decode()


def test_a_value_nested_without_end_is_a_sentence_of_convert_as_well() -> None:
    value: Any = None
    for _ in range(DEEP):
        value = [value]

    class Tree(Struct):
        below: list[Any]

    with pytest.raises(SoRAError, match=r"^it: "):
        convert(value, Tree, "it", "a thing")
    while value:  # let it go level by level
        value = value[0]


@pytest.mark.parametrize("text", [".".join("a" * 50_000) + " = 1", "[" + ".".join("a" * 50_000) + "]"])
def test_a_key_without_end_is_refused_before_it_is_parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """tomllib takes 30 seconds for 50,000 parts, and four times as many for twice."""
    parsed: list[str] = []
    monkeypatch.setattr(tomllib, "loads", parsed.append)
    with pytest.raises(SoRAError, match="it: a key in it has a hundred parts or more: expected a thing"):
        decode_toml(text, "it", "a thing")
    assert parsed == []


def test_what_only_looks_like_an_endless_key_is_read() -> None:
    values = {"list": [0.125] * 20_000, "word": "x" * 500_000, "dots": "." * 200_000}
    text = f"list = {values['list']}\nword = '{values['word']}'\ndots = '{values['dots']}'\n[a.b.'c.d'.e]\n"
    assert decode_toml(text, "it", "a thing") == values | {"a": {"b": {"c.d": {"e": {}}}}}


@given(st.text() | st.binary().map(repr) | st.floats().map(repr) | st.lists(st.text()).map(repr))
def test_no_error_of_a_parser_escapes(text: str) -> None:
    for decode in (decode_toml, lambda text, where, expected: decode_json(text, Any, where, expected)):
        with suppress(SoRAError):
            decode(text, "it", "a thing")


def test_hostile_text_is_printable_in_the_sentence(tmp_path: Path) -> None:
    hostile = "\x1b[2J\u202e" + "x" * 5000
    path = tmp_path / "it.toml"
    path.write_text(f"a = 1\n{hostile} = 2\n")
    with pytest.raises(SoRAError) as refused:
        read_toml(path, "a thing")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_toml_of_too_many_digits_or_no_text_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "it.toml"
    for data in (b"a = " + b"9" * 5000, b"\xff\xfe", b"a = 1\na = 2", b"\0"):
        path.write_bytes(data)
        with pytest.raises(SoRAError, match=r"it\.toml: damaged, not TOML \(.*\): expected a thing"):
            read_toml(path, "a thing")


def test_lines_are_counted_and_a_last_one_that_was_cut_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert list(json_lines(path, Outer, "a log")) == []
    path.write_bytes(GOOD + b"\n" + GOOD + b"\n" + GOOD[:9])
    assert [record.step for _, _, record in json_lines(path, Outer, "a log")] == [1, 1]
    for line in (b"", b"[]", b'{"step": null}', b"[" * DEEP, b"\xff", GOOD + b"x"):
        path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD + b"\n")
        with pytest.raises(SoRAError, match=r"log, line 2: .*expected a log"):
            list(json_lines(path, Outer, "a log"))


def test_a_log_that_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=f"^{tmp_path}: a folder: expected a log$"):
        list(json_lines(tmp_path, Outer, "a log"))
