"""`inspect` of PEFT adapters: what is counted, and what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sora_ref import SoRA
from sora_ref.errors import SoRAError
from sora_ref.models import OUTPUT_LAYERS
from sora_ref.run.inspect import _hidden, inspect_path

QUERY = "bert.encoder.layer.0.attention.self.query"


def write(folder: Path, A: np.ndarray, B: np.ndarray, more: dict[str, np.ndarray], **options: Any) -> Path:
    config = {"peft_type": "LORA", "r": A.shape[0], "lora_alpha": 8, "target_modules": ["query"], **options}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    arrays = {f"base_model.model.{QUERY}.lora_{name}.weight": array for name, array in (("A", A), ("B", B))}
    save_file(
        {name: array.astype("f4") for name, array in (arrays | more).items()}, folder / "adapter_model.safetensors"
    )
    return folder


def test_an_adapter_without_a_head_has_ranks_and_counts(tmp_path: Path) -> None:
    facts, lines = inspect_path(write(tmp_path, np.ones((2, 4)), np.ones((4, 2)), {}))
    assert facts["ranks"] == {QUERY.removeprefix("bert."): 2}
    assert (facts["counts"]["retained"], facts["counts"]["head"], facts["counts"]["released"]) == (16, 0, 16)
    assert any("the released counter says 16" in line for line in lines)


@pytest.mark.parametrize(
    ("shapes", "hidden"),
    [
        ({"encoder.layer.0.attention.self.query": (4, 4)}, 4),
        ({"encoder.layer.0.output.dense": (16, 4), "encoder.layer.0.intermediate.dense": (4, 16)}, 4),
        ({"model.layers.0.self_attn.k_proj": (8, 2), "model.layers.0.mlp.down_proj": (20, 8)}, 8),
        ({"model.layers.0.q_proj": (8, 2), "model.layers.1.q_proj": (6, 2)}, None),  # they differ
        ({"h.0.attn.c_attn": (4, 12)}, None),
    ],
)
def test_hidden_size_is_that_of_modules_which_read_or_write_it(
    shapes: dict[str, tuple[int, int]], hidden: int | None
) -> None:
    def adapter(inputs: int, outputs: int) -> SoRA:
        return SoRA(np.ones((2, inputs)), np.ones(2), np.ones((outputs, 2)), 1.0)

    adapters = {module: adapter(*shape) for module, shape in shapes.items()}
    assert _hidden(adapters, {}) == hidden
    for out in OUTPUT_LAYERS:
        assert _hidden(adapters, {f"{out}.weight": np.ones((2, 5))}) == 5
    assert _hidden(adapters, {"classifier.weight": np.ones(7)}) == hidden  # no linear classifier


def test_a_folder_of_adapters_is_refused_with_the_name_of_one(tmp_path: Path) -> None:
    for step in ("checkpoint-5", "checkpoint-9"):
        (tmp_path / step).mkdir()
        write(tmp_path / step, np.ones((1, 4)), np.ones((4, 1)), {})
    with pytest.raises(SoRAError, match=r"holds 2 in folders of its own: expected one of them, as .*checkpoint-9"):
        inspect_path(tmp_path)
    assert inspect_path(tmp_path / "checkpoint-9")[0]["counts"]["kept"] == 1


def test_components_that_add_nothing_are_not_counted_as_kept(tmp_path: Path) -> None:
    A, B = np.ones((4, 4)), np.ones((4, 4))
    A[2:], B[:, 1:] = 0, 0  # padded with zeros beyond 2; and one whose column of B never moved
    facts, lines = inspect_path(write(tmp_path, A, B, {}))
    assert (facts["counts"]["kept"], facts["counts"]["components"]) == (1, 4)
    assert any("rank 4, 1 kept" in line for line in lines)


def test_what_selects_nothing_is_said(tmp_path: Path) -> None:
    facts, lines = inspect_path(write(tmp_path, np.ones((1, 4)), np.ones((4, 1)), {}, rank_pattern={"quiery": 3}))
    assert facts["notes"] == ["rank_pattern has quiery, which matches no layer: PEFT ignores it"]
    assert f"note: {facts['notes'][0]}" in lines


def test_tensors_stored_in_full_are_listed_and_counted_with_the_head(tmp_path: Path) -> None:
    head = {"base_model.model.classifier.dense.weight": np.ones((4, 4))}
    facts, _ = inspect_path(write(tmp_path, np.ones((1, 4)), np.ones((4, 1)), head))
    assert (facts["saved"], facts["counts"]["head"]) == (["classifier.dense.weight"], 16)
