"""Configurations: our TOML, and config.json, tokenizer.json and tokenizer_config.json of a model."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from tiny_run import VOCABULARY
from tokenizers.implementations import BertWordPieceTokenizer

from sora_ref.run.config import Config, load_config
from sora_ref.run.data import Example, Labels
from sora_ref.run.evaluate import predict_logits
from sora_ref.run.initial import initial_params
from sora_ref.run.keys import parse_override
from sora_ref.run.setup import make_setup
from sora_ref.run.text import encode
from sora_ref.run.tokens import tokenizer_files
from tests.soak.fuzz import octets, trees
from tests.soak.fuzz.format import Files, Format, some
from tests.soak.ground import Ground

_SETTINGS = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "model_max_length": 16,
    "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    "unk_token": "[UNK]",
    "cls_token": {"content": "[CLS]", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
    "added_tokens_decoder": {"2": {"content": "[CLS]", "special": True}},
}
# What --set takes.
_OVERRIDES = ("train.lr=1e-3", 'adapter.kinds=["query", "value"]', "task.labels=['a', 'b']", "seed=7", "model.path=a/b")
TEXTS = ("a good film", "the plot was dull and cold", "", "an unknown word", "a " * 40)


def toml(rng: random.Random, data: bytes) -> bytes:
    """A TOML document, changed in its structure or its bytes."""
    if rng.random() < 0.3:
        return octets.damaged(rng, data)
    try:
        return trees.with_pieces(tomli_w.dumps, trees.changed(rng, tomllib.loads(data.decode())))
    except (ValueError, TypeError, AttributeError, RecursionError):  # not TOML any more, or what TOML has no word for
        return octets.damaged(rng, data)


def json_document(rng: random.Random, data: bytes) -> bytes:
    """A JSON document, changed in its structure or its bytes."""
    if rng.random() < 0.2:
        return octets.damaged(rng, data)
    try:
        return trees.to_json(trees.changed(rng, json.loads(data)))
    except (ValueError, TypeError, RecursionError):  # not JSON any more, or with an object as a key
        return octets.damaged(rng, data)


def _config_folder(ground: Ground) -> Path:
    """The configurations of both runs, and one with every optional key."""
    folder = ground.folder / "formats" / "toml"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "scheduler"):
        (folder / f"{name}.toml").write_bytes((ground.folder / f"{name}.toml").read_bytes())
    return folder


def _damage_config(rng: random.Random, files: Files) -> Files:
    return {"case.toml": some(rng, files[rng.choice(sorted(files))], toml)}


def _read_config(folder: Path) -> None:
    load_config(folder / "case.toml", {})


def _settings_folder(ground: Ground) -> Path:
    folder = ground.folder / "formats" / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(_OVERRIDES):
        (folder / f"{number}.txt").write_text(text)
    return folder


def _damage_setting(rng: random.Random, files: Files) -> Files:
    return {"case.txt": some(rng, files[rng.choice(sorted(files))], octets.damaged)}


def _read_setting(folder: Path) -> None:
    key, value = parse_override((folder / "case.txt").read_bytes().decode("utf-8", "surrogateescape"))
    load_config(None, {key: value})


def model_folder(ground: Ground) -> Path:
    """A model with a WordPiece tokenizer and all the files of one, and a configuration that trains it."""
    folder = ground.folder / "formats" / "model"
    if not folder.exists():
        shutil.copytree(ground.keys["model.path"], folder)
        words = {word: place for place, word in enumerate(VOCABULARY)}
        BertWordPieceTokenizer(words).save(str(folder / "tokenizer.json"), pretty=False)
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY))
        (folder / "tokenizer_config.json").write_text(json.dumps(_SETTINGS))
        (folder / "special_tokens_map.json").write_text(json.dumps({"unk_token": "[UNK]", "cls_token": "[CLS]"}))
        shutil.copy(ground.folder / "train.toml", folder)
    return folder


def read_model(folder: Path) -> Any:
    """Everything that uses a model folder: its configuration, weights, tokenizer, a prediction, a merge's copies."""
    config = _configuration(folder)
    setup = make_setup(config, Labels("classification", ("bad", "good"), ("accuracy",)))
    examples = tuple(Example(str(k), text, None, None) for k, text in enumerate(TEXTS))
    predict_logits(setup, initial_params(setup), encode(examples, setup.tokenizer, setup.model.config))
    return tokenizer_files(folder)


@cache
def _configuration(folder: Path) -> Config:
    return load_config(folder / "train.toml", {"model.path": str(folder)})


def _damage(name: str) -> Callable[[random.Random, Files], Files]:
    change = json_document if name.endswith(".json") else octets.damaged

    def damage(rng: random.Random, files: Files) -> Files:
        return {name: some(rng, files[name], change)}

    return damage


def train_it(folder: Path, out: Path) -> list[str]:
    """The command that trains the model of a folder."""
    config = ["--config", str(folder / "train.toml"), "--model", str(folder)]
    return ["train", *config, "--out", str(out / "run"), "--quiet"]


def _train(folder: Path, out: Path) -> list[str]:
    """Refused in any case, for the folder is not empty: a damaged configuration may ask for a million epochs."""
    return ["train", "--config", str(folder / "case.toml"), "--out", str(folder), "--quiet"]


_MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

FORMATS = (
    Format("toml", _config_folder, _damage_config, _read_config, slice=400, console=_train),
    Format("--set", _settings_folder, _damage_setting, _read_setting, slice=400),
    *(Format(name, model_folder, _damage(name), read_model, slice=80, console=train_it) for name in _MODEL),
)
