"""A tokeniser's files that are missing, damaged or no files; what they mean is compared with transformers elsewhere."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import VOCABULARY, write_tokenizer

from sora_ref.errors import SoRAError
from sora_ref.run.tokens import encode_texts, load_tokenizer

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 466247\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def change(folder: Path, work: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    work(document)
    path.write_text(json.dumps(document))


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence) as caught:
        load_tokenizer(folder, 9)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_special_tokens_that_the_file_does_not_list_are_found_in_a_text(folder: Path) -> None:
    ids = load_tokenizer(folder, 9).encode("a [SEP] film").ids
    words = [VOCABULARY.index(word) for word in ("[CLS]", "a", "[SEP]", "film", "[SEP]")]
    assert ids == words


def test_a_special_token_without_letters_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"sep_token": ""}')
    refused(folder, "'' is one of its special tokens: expected a text")


def test_only_a_vocabulary_gets_the_command_that_makes_the_rest(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "vocab.txt")
    refused(folder, r"only vocab.txt: .*python -c .*from_pretrained\('.'\).save_pretrained\('.'\)")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_pointer_of_git_lfs_gets_the_command_that_fetches_the_file(folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    refused(folder, f"{name}: a Git LFS pointer, not the file itself: .*`git lfs pull`")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 100_000, '{"a": ' * 100_000, "7", "null", '"x"', '{"added_tokens_decoder": 7, "x": ""}', "[1]"],
)
def test_damaged_documents_are_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    refused(folder, name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(folder, f"{name}: a named pipe: expected")


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (lambda d: d["model"]["vocab"].pop("[UNK]"), r"no '\[UNK\]' in its vocabulary: expected the token of unknown"),
        (lambda d: d["model"].update(vocab={"[UNK]": -1}), r"model.vocab is \{'\[UNK\]': -1\}: expected words and"),
        (lambda d: d["model"].update(vocab={"[UNK]": 2**31}), "model.vocab is"),
        (lambda d: d["model"].update(vocab={"[UNK]": True}), "model.vocab is"),
        (lambda d: d["model"].update(vocab=["[UNK]"]), "model.vocab is"),
        (lambda d: d.update(model=7), "model: damaged"),
        (lambda d: d["model"].update(unk_token=None), "tokenizer.json"),
        (lambda d: d.update(added_tokens=[{"id": 0}]), r"added_tokens\[0\]: damaged"),
        (lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [{"type": "Nothing"}]}), "not a tokeniser"),
    ],
)
def test_parts_that_make_no_tokeniser_are_named(folder: Path, work: Callable[[Any], object], sentence: str) -> None:
    change(folder, work)
    refused(folder, sentence)


def test_a_panic_of_the_library_is_a_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As pyo3 raises it: no Exception."""

    class Panics:
        def encode_batch(self, texts: object) -> None:
            raise PanicException("index out of bounds")

    with pytest.raises(SoRAError, match=r"not a tokeniser \(index out of bounds\)"):
        encode_texts(Panics(), ["a"])  # type: ignore[arg-type]


def test_a_tokenizer_whose_bytes_are_no_text_where_no_field_is_read_is_a_sentence(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"{", b'{"note": "\xd7x", ', 1))
    refused(folder, "not a tokeniser: not UTF-8")


def test_a_real_panic_is_a_sentence_and_nothing_else(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(folder, lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}))
    refused(folder, r"not a tokeniser \(Precompiled: .*\): expected a tokenizer.json")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]})
    )
    change(folder, lambda d: d.update(normalizer=None, pre_tokenizer={"type": "FixedLength", "length": 0}))
    tokenizer = load_tokenizer(folder, 9)
    with pytest.raises(SoRAError, match=r"not a tokeniser \(chunk size must be non-zero\)"):
        encode_texts(tokenizer, ["a film"] * 99)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_standard_error_is_back_after_two_threads_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    within, gone = threading.Event(), threading.Event()

    class Second:
        def encode_batch(self, texts: object) -> None:
            within.set()
            gone.wait(10)

    class First:
        def encode_batch(self, texts: object) -> None:
            thread.start()
            within.wait(0.3)  # in vain, for one goes in at a time

    thread = threading.Thread(target=encode_texts, args=(Second(), ["b"]))
    encode_texts(First(), ["a"])  # type: ignore[arg-type]
    gone.set()
    thread.join()
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_an_interrupt_stays_one() -> None:
    class Interrupted:
        def encode_batch(self, texts: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_texts(Interrupted(), ["a"])  # type: ignore[arg-type]


def test_a_shorter_length_of_the_folder_is_said(folder: Path) -> None:
    said: list[str] = []
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 5}')
    load_tokenizer(folder, 9, said.append)
    load_tokenizer(folder, 5, said.append)
    assert said == [f"{folder}: model_max_length is 5; texts are cut at model.max_length all the same, 9"]
