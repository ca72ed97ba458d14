"""A checkpoint whose digest is right and whose contents are not is one sentence: a digest says who wrote, not what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import RANK, copy_run, last, make_keys, run_once

from sora_ref.errors import SoRAError
from sora_ref.run.checkpoint import checkpoints, read_checkpoint
from sora_ref.run.inspect import inspect_path
from sora_ref.run.ship import write_pruned
from sora_ref.run.trained import load_trained
from sora_ref.storage.sealed import digest, read_sealed, sealed_bytes

Keys = dict[str, Any]
Change = Callable[[dict[str, np.ndarray], dict[str, Any]], Any]
MODULE = "encoder.layer.0.attention.self.query"
HOSTILE = "\x1b[2J\u202e" + "x" * 3000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("layout")) | {"train.epochs": 1}


@pytest.fixture(scope="module")
def run(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_once(folder, keys)
    return folder


def changed(run: Path, tmp_path: Path, change: Change) -> Path:
    """A copy of the run whose newest checkpoint has other contents, and a digest that fits them."""
    folder = copy_run(run, tmp_path / "run")
    (folder / "summary.json").unlink()
    path = checkpoints(folder)[-1]
    tensors, facts = read_sealed(path, "a checkpoint")
    change(tensors, facts)
    path.write_bytes(sealed_bytes(tensors, facts))
    return folder


def put(key: str, value: Any) -> Change:
    """Set a fact, by its dotted name."""
    *tables, name = key.split(".")

    def change(tensors: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        for table in tables:
            facts = facts[table]
        facts[name] = value

    return change


def lose(key: str) -> Change:
    return lambda tensors, facts: facts.pop(key)


def tensor(key: str, value: np.ndarray | None) -> Change:
    def change(tensors: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value

    return change


def zeros(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype)


# What a reader that has no model at hand can see.
BY_ITSELF: dict[str, tuple[Change, str]] = {
    **{f"no {key}": (lose(key), f"missing required field `{key}`")
       for key in ("t", "position", "scales", "labels", "base", "moments")},
    "no format": (lose("format"), "checkpoint format None: expected 1"),
    "format of text": (put("format", HOSTILE), "checkpoint format"),
    "t of text": (put("t", "5"), "t: damaged (Expected `int`, got `str`)"),
    "t below zero": (put("t", -1), "t: damaged"),
    "t beyond reason": (put("t", 2**70), "t: damaged"),
    "t a share": (put("t", 1.5), "t: damaged"),
    "position a list": (put("position", []), "position: damaged (Expected `object`, got `array`)"),
    "step of nothing": (put("position.step", None), "position.step: damaged"),
    "seconds of text": (put("position.seconds", "long"), "position.seconds: damaged"),
    "scales a number": (put("scales", 2), "scales: damaged"),
    "scale of text": (put("scales", {MODULE: "x"}), "scales"),
    "labels nothing": (put("labels", None), "labels: damaged"),
    "kind of its own": (put("labels.kind", HOSTILE), "labels.kind: damaged"),
    "names numbers": (put("labels.names", [0, 1]), "labels.names[0]: damaged"),
    "names twice": (put("labels.names", ["a", "a"]), "labels.names has one of them twice"),
    "no metrics": (put("labels.metrics", []), "labels.metrics is empty"),
    "base a number": (put("base", 3), "base: damaged"),
    "moments nothing": (put("moments", None), "moments: damaged"),
    "moments are there, it says no": (put("moments", False), "a tensor m/classifier.bias: expected moments of its"),
    "foreign prefix": (tensor("foo/x", zeros(2)), "a tensor 'foo/x': expected params/, m/ or v/ and a name"),
    "no prefix": (tensor("x", zeros(2)), "a tensor 'x': expected params/"),
    "no name": (tensor("params/", zeros(2)), "a tensor 'params/': expected params/"),
    "hostile name": (tensor(HOSTILE, zeros(2)), "a tensor '\\x1b[2J\\u202e"),
    "v without m": (tensor("m/classifier.bias", None), "no tensor m/classifier.bias: expected both moments"),
    "m without v": (tensor("v/classifier.bias", None), "no tensor v/classifier.bias: expected both moments"),
    "moment too many": (tensor("v/other", zeros(2)), "a tensor v/other: expected moments of its parameters"),
    "moment of another shape": (tensor("m/classifier.bias", zeros(3)), "m/classifier.bias is float32 (3,): expected"),
    "moment of another dtype": (tensor("m/classifier.bias", zeros(2, dtype="float64")), "m/classifier.bias is float64"),
    "whole numbers": (tensor("params/classifier.bias", zeros(2, dtype="int64")), "is stored as I64: expected F64"),
    "yes and no": (tensor("m/classifier.bias", zeros(2, dtype="bool")), "is stored as BOOL: expected F64 or F32"),
}  # fmt: skip


def both(key: str, value: np.ndarray | None) -> Change:
    """A parameter and its moments."""

    def change(tensors: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        for part in ("params", "m", "v"):
            tensor(f"{part}/{key}", value)(tensors, facts)

    return change


AMONG_EACH_OTHER: dict[str, tuple[Change, str]] = {
    "no A": (both(f"{MODULE}.sora_A", None), f"no tensor {MODULE}.sora_A: expected A and B"),
    "no B": (both(f"{MODULE}.sora_B", None), f"no tensor {MODULE}.sora_B: expected A and B"),
    "A a vector": (both(f"{MODULE}.sora_A", zeros(3)), "expected matrices"),
    "B of another rank": (both(f"{MODULE}.sora_B", zeros(8, 2)), "expected (r, in) and (out, r)"),
    "g of another rank": (both(f"{MODULE}.sora_g", zeros(2)), "has g (2,): expected (3,)"),
    "g a matrix": (both(f"{MODULE}.sora_g", zeros(3, 1)), "has g (3, 1): expected (3,)"),
    "adapter without a scale": (lambda _, facts: facts["scales"].pop(MODULE), "no scale for it"),
    "scale without an adapter": (put("scales.elsewhere", 1.0), "no tensor elsewhere.sora_A"),
    "unknown part of an adapter": (both(f"{MODULE}.sora_C", zeros(3)), "sora_C', but no scale for it"),
    "no head": (both("classifier.weight", None), "no tensor classifier.weight: expected a head"),
    "no bias": (both("classifier.bias", None), "no tensor classifier.bias: expected a head"),
    "head a vector": (both("classifier.weight", zeros(2)), "the head is (2,) and (2,): expected (2, d) and (2,)"),
    "head of more classes": (both("classifier.bias", zeros(3)), "the head is (2, 8) and (3,): expected (2, d) and"),
    "more names than outputs": (put("labels.names", ["a", "b", "c"]), "expected (3, d) and (3,)"),
}

AGAINST_THE_MODEL: dict[str, tuple[Change, str]] = {
    "A of another width": (both(f"{MODULE}.sora_A", zeros(3, 9)), f"{MODULE}.sora_A has shape (3, 9): expected (3, 8)"),
    "B of another height": (both(f"{MODULE}.sora_B", zeros(9, 3)), "sora_B has shape (9, 3): expected (8, 3)"),
    "head of another width": (both("classifier.weight", zeros(2, 9)), "has shape (2, 9): expected (2, 8)"),
    "tensor of another model": (both("decoder.weight", zeros(2)), "a tensor 'decoder.weight': expected parameters of"),
    "norm of another width": (both("encoder.layer.0.output.LayerNorm.bias", zeros(9)), "has shape (9,): expected (8,)"),
}


def one_sentence(act: Callable[[], object], path: Path, said: str) -> None:
    with pytest.raises(SoRAError) as refused:
        act()
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ")
    assert said in sentence
    assert sentence.isprintable()
    assert len(sentence) < 1000


@pytest.mark.parametrize("kind", [*BY_ITSELF, *AMONG_EACH_OTHER])
def test_contents_that_cannot_be_a_checkpoint_are_refused_wherever_one_is_read(
    kind: str, run: Path, tmp_path: Path
) -> None:
    change, said = (BY_ITSELF | AMONG_EACH_OTHER)[kind]
    folder = changed(run, tmp_path, change)
    path = checkpoints(folder)[-1]
    one_sentence(lambda: read_checkpoint(path), path, said)
    one_sentence(lambda: inspect_path(folder), path, said)


@pytest.mark.parametrize("kind", AGAINST_THE_MODEL)
def test_tensors_that_are_not_for_the_model_are_refused_by_name(
    kind: str, run: Path, keys: Keys, tmp_path: Path
) -> None:
    change, said = AGAINST_THE_MODEL[kind]
    folder = changed(run, tmp_path, change)
    path = checkpoints(folder)[-1]
    one_sentence(lambda: load_trained(folder), path, said)
    with pytest.raises(SoRAError, match=r"its parameters are not those of"):
        run_once(folder, keys, resume=True)


def test_an_adapter_of_a_module_that_the_configuration_leaves_out_is_refused(run: Path, tmp_path: Path) -> None:
    folder = copy_run(run, tmp_path / "run")
    file = folder / "config.toml"
    kinds = json.dumps(["query"])
    text = [f"kinds = {kinds}" if line.startswith("kinds") else line for line in _flat(file).splitlines()]
    file.write_text("\n".join(text))
    one_sentence(lambda: load_trained(folder), checkpoints(folder)[-1], "adapts other modules than config.toml beside")


def _flat(file: Path) -> str:
    """The TOML with its list of kinds on one line."""
    head, _, rest = file.read_text().partition("kinds = [")
    return f"{head}kinds = [{rest.partition(']')[0].replace(chr(10), ' ')}]{rest.partition(']')[2]}"


def test_metadata_that_is_no_json_is_a_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save

    folder = copy_run(run, tmp_path / "run")
    path = checkpoints(folder)[-1]
    tensors, facts = read_sealed(path, "a checkpoint")
    for text in ("{", "NaN", "[" * 100_000, ""):
        metadata = {key: json.dumps(value) for key, value in facts.items()} | {"position": text}
        metadata["sha256"] = digest(tensors, metadata)
        path.write_bytes(save(tensors, metadata))
        one_sentence(lambda: read_checkpoint(path), path, "'position' of its metadata: ")


def test_a_pruned_folder_of_uneven_ranks_still_fits(run: Path, tmp_path: Path) -> None:
    loaded = load_trained(run)
    ranks = write_pruned(loaded, tmp_path / "pruned")
    again = load_trained(tmp_path / "pruned")
    assert {m: a.rank for m, a in again.setup.adapters(again.params).items()} == ranks
    assert max(ranks.values()) <= RANK


def test_sums_that_are_not_finite_are_never_written(run: Path) -> None:
    from dataclasses import replace

    from sora_ref.run.checkpoint import checkpoint_bytes

    whole = last(run)
    for name, remedy in (("loss_sum", "train.lr"), ("threshold_sum", "gate.strength")):
        sums: dict[str, Any] = {name: float("inf")}
        bad = replace(whole, position=replace(whole.position, **sums))
        with pytest.raises(SoRAError, match=f"is inf at step 5: expected a number; lower {remedy}"):
            checkpoint_bytes(bad)
