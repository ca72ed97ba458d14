"""RoBERTa's tokeniser by hand on a vocabulary of a few hundred tokens, and files that make none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_tokens import write_byte_level_bpe

from sora_ref.errors import SoRAError
from sora_ref.run.tokens import load_tokenizer, read_tokenizer_files, tokenizer_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_byte_level_bpe(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    return tmp_path


def change(folder: Path, work: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    work(document)
    path.write_text(json.dumps(document))


def tokens(folder: Path, text: str, pair: str | None = None, length: int = 16) -> list[str]:
    return load_tokenizer(folder, length, token_types=1).encode(text, pair).tokens


def refused(folder: Path, sentence: str, length: int = 9) -> None:
    with pytest.raises(SoRAError, match=sentence) as caught:
        load_tokenizer(folder, length, token_types=1)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_word_within_a_text_is_not_the_word_at_its_beginning(folder: Path) -> None:
    assert tokens(folder, "good good film") == ["<s>", "good", "Ġgood", "Ġfilm", "</s>"]
    assert tokens(folder, " good") == ["<s>", "Ġgood", "</s>"]


def test_a_pair_has_two_separators_and_one_type(folder: Path) -> None:
    encoded = load_tokenizer(folder, 9, token_types=1).encode("good", "bad")
    assert encoded.tokens == ["<s>", "good", "</s>", "</s>", "bad", "</s>"]
    assert set(encoded.type_ids) == {0}


def test_what_is_no_word_is_its_bytes(folder: Path) -> None:
    assert tokens(folder, "é\x00") == ["<s>", "Ã", "©", "Ā", "</s>"]


def test_a_byte_without_a_letter_in_the_vocabulary_is_left_out(folder: Path) -> None:
    change(folder, lambda d: d["model"]["vocab"].pop("©"))
    assert tokens(folder, "é") == ["<s>", "Ã", "</s>"]


def test_a_prefix_space_makes_the_first_word_one_within_a_text(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    change(folder, lambda d: d["pre_tokenizer"].update(add_prefix_space=True))
    assert tokens(folder, "good") == ["<s>", "Ġgood", "</s>"]


def test_a_mask_takes_the_blank_before_it(folder: Path) -> None:
    assert tokens(folder, "a <mask> film") == ["<s>", "a", " <mask>", "Ġfilm", "</s>"]


@pytest.mark.parametrize("part", ["cls_token", "sep_token"])
def test_a_special_token_without_letters_is_refused(folder: Path, part: str) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({part: ""}))
    refused(folder, "'' is one of its special tokens: expected a text")


def test_longer_texts_are_cut_from_the_longer_one_first(folder: Path) -> None:
    assert tokens(folder, "a good film", length=5) == ["<s>", "a", "Ġgood", "Ġfilm", "</s>"]
    assert tokens(folder, "a good film", "bad", length=6) == ["<s>", "a", "</s>", "</s>", "bad", "</s>"]


def test_a_length_without_room_for_a_token_is_refused(folder: Path) -> None:
    refused(folder, "max_length is 4: expected more than the 4 special tokens", length=4)


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt", None])
def test_vocabulary_and_merges_get_the_command_that_makes_the_rest(folder: Path, missing: str | None) -> None:
    (folder / "tokenizer.json").unlink()
    if missing is None:
        refused(folder, r"only vocab.json and merges.txt: .*of those, in that folder: python -c .*from_pretrained")
    else:
        (folder / missing).unlink()
        refused(folder, r"tokenizer\.json: no such file: expected")


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda d: d["model"].update(merges=["a b c"]), r"model.merges has one that is no pair: expected two tokens"),
        (lambda d: d["model"].update(merges=[["a"]]), r"model.merges has one that is no pair"),
        (lambda d: d["model"].update(merges=["a Ġgoodfilm"]), r"not a tokeniser \(.*Ġgoodfilm"),
        (lambda d: d["model"].update(merges=[7]), r"model.merges\[0\]: damaged"),
        (lambda d: d["model"].update(merges="a b"), r"model.merges: damaged"),
        (lambda d: d["model"].update(vocab=[["a", 0]]), r"model.vocab is \[\['a', 0\]\]: expected words and their ids"),
        (lambda d: d["model"]["vocab"].pop("good"), r"not a tokeniser \(.*good"),
    ],
)
def test_parts_that_make_no_tokeniser_are_named(folder: Path, work: Callable[[Any], object], sentence: str) -> None:
    change(folder, work)
    refused(folder, sentence)


def test_files_of_the_family_are_copied_and_others_are_not(folder: Path) -> None:
    (folder / "vocab.txt").write_text("of a WordPiece tokeniser")
    names = ["tokenizer.json", "vocab.json", "merges.txt"]
    assert [path.name for path in tokenizer_files(folder)] == names
    assert read_tokenizer_files(folder) == {name: (folder / name).read_bytes() for name in names}
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert [path.name for path in tokenizer_files(folder)] == ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("vocab.json", "root:x:0:0", "damaged|not JSON"),
        ("vocab.json", '["a"]', "damaged"),
        ("vocab.json", '{"good": 7}', r"'good' is 7: expected \d+, as in tokenizer.json beside it"),
        ("vocab.json", '{"strange": 7}', r"'strange' is 7: expected None"),
        ("merges.txt", "root:x:0:0", "line 1: no merge of tokenizer.json beside it"),
        ("merges.txt", "#version: 0.2\ng o\n\na strange\n", "line 4: no merge"),
        ("merges.txt", "g o\n#version: 0.2\n", "line 2: no merge"),
        ("merges.txt", "g o o\n", "line 1: no merge"),
    ],
)
def test_a_vocabulary_that_is_not_the_tokenisers_own_is_refused(
    folder: Path, name: str, contents: str, words: str
) -> None:
    (folder / name).write_text(contents)
    with pytest.raises(SoRAError, match=f"{name}.*({words})"):
        read_tokenizer_files(folder)


def test_lines_may_end_as_on_windows(folder: Path) -> None:
    path = folder / "merges.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    read_tokenizer_files(folder)
