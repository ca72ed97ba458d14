"""Model folders with one thing changed in their tokeniser's files, held against transformers' AutoTokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sora_ref.run.tokens import load_tokenizer

Document = dict[str, Any]
Change = Callable[[dict[str, Document]], None]
Pair = tuple[str, str]


def theirs(folder: Path) -> Any:
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def assert_same(
    folder: Path, texts: Sequence[str], pairs: Sequence[Pair], lengths: Sequence[int], token_types: int
) -> None:
    """Every text and pair at every length: ids, and type ids where the model reads them."""
    other = theirs(folder)
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    for length in lengths:
        ours = load_tokenizer(folder, length, token_types=token_types)
        for asked, said in (
            (texts, other(list(texts), truncation=True, max_length=length)),
            (pairs, other(firsts, seconds, truncation=True, max_length=length)),
        ):
            for text, found, ids in zip(asked, ours.encode_batch(asked), said["input_ids"], strict=True):
                assert found.ids == ids, (text, length)
            if token_types > 1:
                assert [found.type_ids for found in ours.encode_batch(asked)] == said["token_type_ids"], length


def changed(base: Path, folder: Path, change: Change) -> Path:
    """A copy of the tokeniser's files with a change made to them; a file that becomes empty is not written."""
    folder.mkdir()
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    documents = {
        name.removesuffix(".json"): json.loads((base / name).read_text()) if (base / name).exists() else {}
        for name in names
    }
    change(documents)
    for name, document in documents.items():
        if document:
            (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def put(document: str, *place: str | int, value: Any) -> Change:
    def change(documents: dict[str, Document]) -> None:
        target: Any = documents[document]
        for key in place[:-1]:
            target = target[key]
        target[place[-1]] = value

    return change


def config(**keys: Any) -> Change:
    return lambda documents: documents["tokenizer_config"].update(keys)


def written(**keys: Any) -> Change:
    return lambda documents: documents["tokenizer"].update(keys)


def normalizer(**keys: Any) -> Change:
    return lambda documents: documents["tokenizer"]["normalizer"].update(keys)


def both(*changes: Change) -> Change:
    def change(documents: dict[str, Document]) -> None:
        for each in changes:
            each(documents)

    return change


def token(content: str, id_: int, **flags: Any) -> Document:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": content, **plain, **flags}


def add(content: str, **flags: Any) -> Change:
    """One more added token in tokenizer.json, behind the vocabulary."""

    def change(documents: dict[str, Document]) -> None:
        file = documents["tokenizer"]
        file["added_tokens"].append(token(content, len(file["model"]["vocab"]), **flags))

    return change


def list_added(**more: Document) -> Change:
    """The file's added tokens in tokenizer_config.json, as transformers 4 wrote them, and more."""

    def change(documents: dict[str, Document]) -> None:
        listed = {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in documents["tokenizer"]["added_tokens"]
        }
        documents["tokenizer_config"]["added_tokens_decoder"] = listed | more

    return change


def rename(old: str, new: str) -> Change:
    """A special token by another name, everywhere in tokenizer.json."""

    def change(documents: dict[str, Document]) -> None:
        documents["tokenizer"] = json.loads(
            json.dumps(documents["tokenizer"]).replace(json.dumps(old), json.dumps(new))
        )

    return change


def forget(*names: str) -> Change:
    return lambda documents: documents.update({name: {} for name in names})


def obey(sentence: str, folder: Path) -> None:
    """Do what a sentence says."""
    code = sentence.partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
