"""The commands that a sentence gives for other forms of a model do what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sora_ref.errors import SoRAError
from sora_ref.storage.tensors import read_tensors


def obey(path: Path) -> None:
    """Read what is not there, and do what the sentence says."""
    with pytest.raises(SoRAError) as caught:
        read_tensors(path)
    code = str(caught.value).partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", code], cwd=path.parent, check=True)


@pytest.mark.parametrize(("name", "pickle"), [("model", "pytorch_model"), ("adapter_model", "adapter_model")])
def test_a_pickle_is_converted(tmp_path: Path, name: str, pickle: str) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "tied": shared, "turned": shared.T}
    torch.save(tensors, tmp_path / f"{pickle}.bin")
    obey(tmp_path / f"{name}.safetensors")
    found = read_tensors(tmp_path / f"{name}.safetensors").arrays
    assert {key: array.tolist() for key, array in found.items()} == {key: t.tolist() for key, t in tensors.items()}


def test_pieces_are_joined(tmp_path: Path) -> None:
    save_file({"a": np.ones(2, "float32")}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": np.zeros(3, "float32")}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    obey(tmp_path / "model.safetensors")
    found = read_tensors(tmp_path / "model.safetensors").arrays
    assert {key: array.tolist() for key, array in found.items()} == {"a": [1, 1], "b": [0, 0, 0]}
