"""Checkpoints come back bit for bit, or are refused in a sentence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import arrays_of, make_config, make_keys

from sora_ref import initial_state
from sora_ref.errors import SoRAError
from sora_ref.optim import Moments
from sora_ref.run import checkpoint as module
from sora_ref.run.checkpoint import (
    Position,
    Trained,
    checkpoint_bytes,
    checkpoint_path,
    checkpoints,
    describe,
    read_checkpoint,
    save,
    state_of,
    trained_of,
    without_moments,
)
from sora_ref.run.data import Labels
from sora_ref.run.initial import initial_params
from sora_ref.run.setup import make_setup
from sora_ref.storage.sealed import read_sealed, sealed_bytes

LABELS = Labels("classification", ("bad", "good"), ("accuracy", "f1"))


def trained(
    rank: int = 2, dtype: str = "float32", moments: bool = True, step: int = 7, seed: int = 0, **position: Any
) -> Trained:
    rng = np.random.default_rng(seed)
    shapes = {"a.sora_A": (rank, 3), "a.sora_g": (rank,), "a.sora_B": (4, rank), "classifier.weight": (2, 6)}
    shapes["classifier.bias"] = (2,)
    params = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    kept = {name: Moments(-array, array * array) for name, array in params.items()}
    return Trained(
        params, kept if moments else None, 5, Position(step=step, **position), {"a": 1 / 3}, LABELS, "0" * 64
    )


def facts(t: Trained) -> dict[str, Any]:
    return {name: getattr(t, name) for name in ("t", "position", "scales", "labels", "base")}


def rewrite(path: Path, t: Trained, **changes: Any) -> Path:
    """The checkpoint with other facts and a digest that fits them."""
    path.write_bytes(checkpoint_bytes(t))
    tensors, found = read_sealed(path, "a checkpoint")
    path.write_bytes(sealed_bytes(tensors, found | changes))
    return path


@pytest.mark.exact("SORA-STORE-1")
@given(
    rank=st.integers(0, 3),
    dtype=st.sampled_from(["float32", "float64"]),
    moments=st.booleans(),
    loss=st.floats(allow_nan=False, allow_infinity=False),
    seconds=st.floats(0, 1e9),
)
def test_checkpoint_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, rank: int, dtype: str, moments: bool, loss: float, seconds: float
) -> None:
    whole = trained(rank, dtype, moments, loss_sum=loss, seconds=seconds, stage=2, stage_step=1, loss_steps=3)
    path = tmp_path_factory.getbasetemp() / "checkpoint.safetensors"
    path.write_bytes(checkpoint_bytes(whole))
    again = read_checkpoint(path)
    assert arrays_of(again) == arrays_of(whole)
    assert (again.moments is None) == (not moments)
    assert facts(again) == facts(whole)
    assert {name: (a.dtype, a.shape) for name, a in again.params.items()} == {
        name: (a.dtype, a.shape) for name, a in whole.params.items()
    }


def test_state_of_a_setup_comes_back_bit_for_bit_and_can_go_on(tmp_path: Path) -> None:
    setup = make_setup(make_config(make_keys(tmp_path)), LABELS)
    state = initial_state(initial_params(setup))
    moments = {name: Moments(m + 0.5, v + 0.25) for name, (m, v) in state.moments.items()}
    state = state._replace(moments=moments, t=3)
    kept = trained_of(setup, state, Position(step=3), "base", moments=True)
    path = save(tmp_path, kept)
    again = state_of(setup, read_checkpoint(path))
    assert again.t == 3
    for name, array in state.params.items():
        assert again.params[name].tobytes() == array.tobytes()
        assert [x.tobytes() for x in again.moments[name]] == [x.tobytes() for x in moments[name]]
        assert again.params[name].flags.writeable or again.params[name].base is None
    assert kept.scales == dict.fromkeys(setup.scales, 2.0)


def test_parameters_alone_cannot_go_on(tmp_path: Path) -> None:
    setup = make_setup(make_config(make_keys(tmp_path)), LABELS)
    shipped = without_moments(trained())
    assert shipped.moments is None
    with pytest.raises(SoRAError, match="no optimiser moments: expected one written during training"):
        state_of(setup, shipped)


def test_last_two_checkpoints_are_kept_in_the_order_of_their_steps(tmp_path: Path) -> None:
    assert checkpoints(tmp_path) == []
    for step in (0, 5, 9, 10, 1000):
        assert save(tmp_path, trained(step=step)) == checkpoint_path(tmp_path, step)
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 10), checkpoint_path(tmp_path, 1000)]
    assert [read_checkpoint(path).position.step for path in checkpoints(tmp_path)] == [10, 1000]


def test_checkpoint_that_cannot_be_written_costs_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, trained(step=1))
    save(tmp_path, trained(step=2))
    before = {path: path.read_bytes() for path in checkpoints(tmp_path)}

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(SoRAError, match="cannot be written"):
        save(tmp_path, trained(step=3))
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()} == before


def test_old_checkpoint_that_cannot_be_removed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    for step in range(2):
        save(tmp_path, trained(step=step))
    monkeypatch.setattr(Path, "unlink", refuse)
    save(tmp_path, trained(step=2))
    assert len(checkpoints(tmp_path)) == 3


@pytest.mark.parametrize("found", [0, 2, None])
def test_another_format_is_refused_by_its_number(tmp_path: Path, found: Any) -> None:
    path = rewrite(tmp_path / "x", trained(), format=found)
    with pytest.raises(SoRAError, match=f"x: checkpoint format {found}: expected {module.FORMAT}"):
        read_checkpoint(path)


def test_format_is_1_and_changes_only_together_with_this_test(tmp_path: Path) -> None:
    """Whoever changes what a checkpoint holds gives it a new number, so that older files are refused by name."""
    path = tmp_path / "x"
    path.write_bytes(checkpoint_bytes(trained()))
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    metadata = {key: json.loads(value) for key, value in header.pop("__metadata__").items() if key != "sha256"}
    assert metadata["format"] == module.FORMAT == 1
    names = {"format", "sora_ref", "spec", "t", "position", "scales", "labels", "base", "moments"}
    assert set(metadata) == names
    assert set(metadata["position"]) == {
        "step", "stage", "stage_step", "loss_sum", "loss_steps", "seconds", "threshold_sum",
        "planned", "best_score", "best_step", "evaluations_since",
    }  # fmt: skip
    assert set(metadata["labels"]) == {"kind", "names", "metrics"}
    assert set(header) == {f"{part}/{name}" for part in ("params", "m", "v") for name in trained().params}


def test_damage_names_the_file_and_the_checkpoint_before_it(tmp_path: Path) -> None:
    paths = [save(tmp_path, trained(step=step)) for step in (1, 2)]
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    with pytest.raises(SoRAError, match=re.escape(str(paths[1]))) as caught:
        read_checkpoint(paths[1])
    error = describe(paths[1], caught.value, checkpoints(tmp_path))
    assert str(error).endswith("; remove it to resume from step-00000001.safetensors")
    assert str(error).startswith(str(caught.value))
    assert str(describe(paths[1], caught.value, [paths[1]])) == str(caught.value)


def test_without_moments_changes_nothing_else() -> None:
    whole = trained()
    assert replace(without_moments(whole), moments=whole.moments) == whole
