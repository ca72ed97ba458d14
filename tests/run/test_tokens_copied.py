"""What `merge` copies of a model's folder is the tokenizer's and the folder's own, whatever links lead elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tiny_run import VOCABULARY, write_tokenizer

from sora_ref.errors import SoRAError
from sora_ref.run.artefacts import ARTEFACTS, download
from sora_ref.run.tokens import read_tokenizer_files

NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "notes.txt").write_text("not copied")
    return folder


def test_files_of_the_tokenizer_are_those_that_are_there(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    assert read_tokenizer_files(folder) == {name: (folder / name).read_bytes() for name in NAMES}
    for name in NAMES[1:]:
        (folder / name).unlink()
    assert list(read_tokenizer_files(folder)) == ["tokenizer.json"]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(SoRAError, match=r"tokenizer\.json: no such file"):
        read_tokenizer_files(folder)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", ["{}", None])
def test_link_out_of_the_folder_is_refused_whatever_it_leads_to(tmp_path: Path, name: str, hidden: str | None) -> None:
    folder = write(tmp_path / "model")
    secret = tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes() if hidden is None else hidden.encode())
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(SoRAError, match=rf"{name}: a link to .*secret.*, outside the model's folder"):
        read_tokenizer_files(folder)


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    (folder / "vocab.txt").rename(folder / "words")
    (folder / "vocab.txt").symlink_to("words")
    (tmp_path / "link").symlink_to(folder)
    assert read_tokenizer_files(tmp_path / "link").keys() == set(NAMES)


def test_snapshot_of_the_hubs_cache_links_to_the_blobs_of_its_own_model_alone(tmp_path: Path) -> None:
    repository = tmp_path / "models--somebody--tiny"
    snapshot = write(repository / "snapshots" / "0123")
    (repository / "blobs").mkdir()
    for name in NAMES:
        (snapshot / name).rename(repository / "blobs" / name.upper())
        (snapshot / name).symlink_to(Path("..", "..", "blobs", name.upper()))
    assert read_tokenizer_files(snapshot).keys() == set(NAMES)
    other = tmp_path / "models--somebody--else" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_text("{}")
    (snapshot / "tokenizer_config.json").unlink()
    (snapshot / "tokenizer_config.json").symlink_to(other / "x")
    with pytest.raises(SoRAError, match=r"tokenizer_config\.json: a link to"):
        read_tokenizer_files(snapshot)


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("tokenizer.json", b"root:x:0:0", "not a tokeniser"),
        ("tokenizer.json", b"\xff", "not a tokeniser"),
        ("tokenizer_config.json", b"root:x:0:0", "not JSON"),
        ("tokenizer_config.json", b"[" * 5000, "not JSON"),
        ("special_tokens_map.json", b"[1]", "no JSON object"),
        ("vocab.txt", b"root:x:0:0\n", r"line 1: no token of tokenizer\.json"),
        ("vocab.txt", ("\n".join(VOCABULARY[:3]) + "\n\nx").encode(), "line 4: no token"),
        ("vocab.txt", b"\xff", "not UTF-8"),
    ],
)
def test_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path, name: str, contents: bytes, words: str) -> None:
    folder = write(tmp_path / "model")
    (folder / name).write_bytes(contents)
    with pytest.raises(SoRAError, match=f"{name}.*{words}"):
        read_tokenizer_files(folder)


def test_pipe_and_circle_of_links_are_refused_at_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "model")
    (folder / "vocab.txt").unlink()
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(SoRAError, match="a named pipe"):
        read_tokenizer_files(folder)
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to("vocab.txt")
    with pytest.raises(SoRAError, match="leads nowhere"):
        read_tokenizer_files(folder)


@pytest.mark.weights
@pytest.mark.parametrize("model", ["minilm", "bert-tiny"])
def test_real_models_are_what_their_names_say(model: str) -> None:
    folder = download(model)
    found = read_tokenizer_files(folder)
    assert found.keys() == {name for name in NAMES if name in ARTEFACTS[model].members}
    json.loads(found["tokenizer.json"])
