"""Laws of the export: the map stays the same, exactly; nothing is half written; what PEFT cannot hold is refused."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, load_file, save
from strategies import all_equal, array_of, dyadics, exact, gates

from sora_ref.backends import get
from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA
from sora_ref.models import HeadName
from sora_ref.models.bert import BERT
from sora_ref.peft import adapters_from, export_adapter, read_adapter
from sora_ref.peft.format import FILES, Layout
from sora_ref.pruning import delta, kept_components, prune

QUERY, DENSE, LAST = (
    "encoder.layer.1.attention.self.query",
    "encoder.layer.1.output.dense",
    "encoder.layer.11.output.dense",
)
NORM = "encoder.layer.1.output.LayerNorm"
LAYOUTS: tuple[Layout, ...] = ("compact", "uniform", "folded")
HEADS: tuple[HeadName, ...] = ("cls", "mean")
layouts = pytest.mark.parametrize("layout", LAYOUTS)
heads = pytest.mark.parametrize("head", HEADS)


def adapter(g: list[float], s: float = 2.0, out: int = 3, in_: int = 2, dtype: str = "float32") -> SoRA:
    """Small whole numbers, all different."""
    r = len(g)
    A = np.arange(1, r * in_ + 1, dtype=dtype).reshape(r, in_)
    return SoRA(A, np.array(g, dtype), -np.arange(1, out * r + 1, dtype=dtype).reshape(out, r), s)


def classifier(dtype: str = "float32") -> dict[str, np.ndarray]:
    return {"classifier.weight": np.eye(2, 3, dtype=dtype), "classifier.bias": np.array([1, 2], dtype)}


def norm() -> dict[str, np.ndarray]:
    return {f"{NORM}.weight": np.full(3, 4, np.float32), f"{NORM}.bias": np.full(3, 5, np.float32)}


def export(
    folder: Path,
    adapters: Mapping[str, SoRA] | None = None,
    saved: Mapping[str, Any] | None = None,
    *,
    head: HeadName = "cls",
    layout: Layout = "compact",
    **others: Any,
) -> Any:
    if adapters is None:
        adapters = {QUERY: adapter([1, 0, -2]), DENSE: adapter([0, 0]), LAST: adapter([3])}
    return export_adapter(
        folder,
        adapters,
        classifier() if saved is None else saved,
        architecture=BERT,
        head=head,
        layout=layout,
        base_model="base",
        **others,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return config


@st.composite
def adapter_sets(draw: st.DrawFn) -> dict[str, SoRA]:
    """One to three modules of any ranks, gates of either sign and zero, scales that may differ."""
    adapters = {}
    for module in draw(st.lists(st.sampled_from([QUERY, DENSE, LAST]), min_size=1, unique=True)):
        r, in_, out = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
        shapes = (array_of((r, in_)), gates(r), array_of((out, r)))
        A, g, B = (draw(t).astype(np.float64) for t in shapes)
        adapters[module] = SoRA(A, g, B, float(draw(dyadics)))
    return adapters


def exact_delta(adapter: SoRA) -> Any:
    return delta(SoRA(exact(adapter.A), exact(adapter.g), exact(adapter.B), Fraction(adapter.s)))


# ----------------------------------------------------------------------------------------------- the map stays the same


@pytest.mark.exact("SORA-PRUNE-3")
@pytest.mark.parametrize("layout", ["compact", "uniform"])  # `folded` rounds r_i/R: see test_rounding
@heads
@given(adapters=adapter_sets())
def test_exported_map_equals_the_gated_one_over_the_rationals(
    layout: Layout, head: HeadName, adapters: dict[str, SoRA]
) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "adapter")
        report = export(folder, adapters, head=head, layout=layout)
        back = adapters_from(read_adapter(folder))
    assert report.ranks == {module: len(kept_components(a.g)) for module, a in adapters.items()}
    for module, original in adapters.items():
        if module in back:
            assert all_equal(exact_delta(back[module]), exact_delta(original))
        else:
            assert report.ranks[module] == 0
    assert set(back) == {module for module, r in report.ranks.items() if r} or set(back) == {report.placeholder}
    assert report.comparison == (2 * len(back) + 2, 0.0, 0.0)


@pytest.mark.exact("SORA-PRUNE-2", "SORA-PRUNE-3")
@layouts
@given(adapters=adapter_sets())
def test_export_is_the_same_bytes_whether_pruned_before_or_not(layout: Layout, adapters: dict[str, SoRA]) -> None:
    pruned = {module: prune(a, kept_components(a.g)) for module, a in adapters.items()}
    with tempfile.TemporaryDirectory() as parent:
        one, two = Path(parent, "one"), Path(parent, "two")
        export(one, adapters, layout=layout)
        export(two, pruned, layout=layout)
        assert contents(one) == contents(two)


def test_compact_gives_each_module_its_rank_and_scale_by_its_full_name_alone(tmp_path: Path) -> None:
    adapters = {QUERY: adapter([1, 0, -2]), DENSE: adapter([0, 0]), LAST: adapter([3], s=0.75)}
    report = export(tmp_path / "a", adapters, classifier() | norm())
    config = config_of(tmp_path / "a")
    assert config["target_modules"] == [f"bert.{QUERY}", f"bert.{LAST}"]
    assert config["rank_pattern"] == {f"bert.{QUERY}": 2, f"bert.{LAST}": 1}
    assert config["alpha_pattern"] == {f"bert.{QUERY}": 4, f"bert.{LAST}": 0.75}
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (2, 4, "SEQ_CLS")
    assert config["modules_to_save"] == ["classifier", f"bert.{NORM}"]
    assert report.modules_to_save == ("classifier", f"bert.{NORM}")
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    np.testing.assert_array_equal(tensors[f"base_model.model.bert.{QUERY}.lora_A.weight"], [[1, 2], [5, 6]])
    np.testing.assert_array_equal(
        tensors[f"base_model.model.bert.{QUERY}.lora_B.weight"], [[-1, 6], [-4, 12], [-7, 18]]
    )


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_full_name_as_a_pattern_matches_its_own_module_and_no_other(prefix: str) -> None:
    r"""For both ways PEFT has matched: `.*\.key$`, then the name itself (to 0.14); `(.*\.)?(key)$` (from 0.15)."""
    block = [f"encoder.layer.{n}.{kind}" for n in range(24) for kind in BERT.kinds.values()]
    names = [prefix + name for name in (*block, "pooler.dense")]
    for key in names:
        assert [name for name in names if re.match(rf"(.*\.)?({key})$", name)] == [key]
        assert [name for name in names if re.match(rf".*\.{key}$", name)] == []


def test_export_of_before_with_anchored_and_escaped_patterns_is_read_the_same(tmp_path: Path) -> None:
    export(tmp_path / "a", {QUERY: adapter([1, 2], s=3), LAST: adapter([1], s=0.5)})
    now, config = read_adapter(tmp_path / "a"), config_of(tmp_path / "a")
    for pattern in ("rank_pattern", "alpha_pattern"):
        config[pattern] = {"^" + re.escape(name): value for name, value in config[pattern].items()}
    config["target_modules"] = f"^({'|'.join(map(re.escape, config['target_modules']))})$"
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    before = read_adapter(tmp_path / "a")
    for module, (A, B, s) in now.loras.items():
        assert all_equal(before.loras[module].A, A)
        assert all_equal(before.loras[module].B, B)
        assert before.loras[module].s == s


@layouts
def test_targets_of_the_bare_encoder_are_whole_names_but_for_servers(tmp_path: Path, layout: Layout) -> None:
    export(tmp_path / "a", head="mean", layout=layout)
    targets = config_of(tmp_path / "a")["target_modules"]
    if layout == "uniform":
        assert targets == [QUERY, LAST]
    else:
        assert [bool(re.fullmatch(targets, name)) for name in (QUERY, LAST, f"bert.{QUERY}", DENSE)] == [1, 1, 0, 0]
        assert not targets.startswith("^")


def test_uniform_pads_to_one_rank_and_needs_no_pattern(tmp_path: Path) -> None:
    report = export(tmp_path / "a", layout="uniform", head="mean")
    config = config_of(tmp_path / "a")
    assert config["target_modules"] == [QUERY, LAST]
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (2, 4, {}, {})
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    np.testing.assert_array_equal(tensors[f"base_model.model.{LAST}.lora_A.weight"], [[1, 2], [0, 0]])
    np.testing.assert_array_equal(tensors[f"base_model.model.{LAST}.lora_B.weight"], [[-3, 0], [-6, 0], [-9, 0]])
    assert not report.scales_folded


@pytest.mark.exact("SORA-PRUNE-3")
def test_uniform_folds_scales_that_differ_into_the_up_projection(tmp_path: Path) -> None:
    report = export(tmp_path / "a", {QUERY: adapter([1, 2], s=3), LAST: adapter([1], s=0.5)}, layout="uniform")
    config = config_of(tmp_path / "a")
    assert report.scales_folded
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    np.testing.assert_array_equal(read_adapter(tmp_path / "a").loras[LAST].B, [[-0.5, 0], [-1, 0], [-1.5, 0]])


def test_folded_has_one_alpha_and_multiplies_the_ranks_into_the_up_projection(tmp_path: Path) -> None:
    """Every reader takes R/r_i: PEFT by its rank_pattern, llama.cpp by the number of rows."""
    adapters = {QUERY: adapter([1, 2, 1, 1], s=3), LAST: adapter([1], s=0.5)}
    report = export(tmp_path / "a", adapters, layout="folded")
    config = config_of(tmp_path / "a")
    assert (config["r"], config["lora_alpha"], config["alpha_pattern"]) == (4, 4, {})
    assert config["rank_pattern"] == {f"bert.{QUERY}": 4, f"bert.{LAST}": 1}
    read = read_adapter(tmp_path / "a").loras
    assert (read[QUERY].s, read[LAST].s, report.comparison.max_scale_error) == (1, 4, 0)
    np.testing.assert_array_equal(read[QUERY].B, 3 * adapters[QUERY].B * adapters[QUERY].g)
    np.testing.assert_array_equal(read[LAST].B, [[-0.125], [-0.25], [-0.375]])


def test_scale_that_is_no_short_fraction_survives_within_two_roundings(tmp_path: Path) -> None:
    for s in (0.1, 16 / 3, np.pi):
        for r in range(1, 9):
            report = export(tmp_path / f"{s}-{r}", {QUERY: adapter([1] * r, s=s)})
            assert report.comparison.max_scale_error <= 2.0**-52


@layouts
def test_no_component_at_all_leaves_one_zero_module_and_says_so(tmp_path: Path, layout: Layout) -> None:
    report = export(tmp_path / "a", {DENSE: adapter([0, 0]), LAST: adapter([])}, layout=layout)
    loras = read_adapter(tmp_path / "a").loras
    assert report.placeholder == DENSE
    assert (list(loras), report.rank) == ([DENSE], 1)
    assert not loras[DENSE].A.any()
    assert not loras[DENSE].B.any()


def test_memory_order_of_the_arrays_does_not_matter(tmp_path: Path) -> None:
    """safetensors 0.8.0 writes F-ordered memory as if it were C-ordered (safetensors#825)."""
    A, g, B, s = adapter([1, 2, 3])
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    saved = classifier() | {"classifier.weight": weight}
    export(tmp_path / "c", {QUERY: SoRA(A, g, B, s)}, saved)
    turned = saved | {"classifier.weight": np.asfortranarray(weight)}
    export(tmp_path / "f", {QUERY: SoRA(np.asfortranarray(A), g[::-1][::-1], np.asfortranarray(B), s)}, turned)
    assert contents(tmp_path / "f") == contents(tmp_path / "c")
    np.testing.assert_array_equal(read_adapter(tmp_path / "f").loras[QUERY].B, B * g)


def test_inputs_of_another_backend_and_read_only_inputs_are_taken_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("array_api_strict")
    A, g, B, s = adapter([1, 0, 2])
    for array in (A, g, B):
        array.flags.writeable = False
    export(tmp_path / "numpy", {QUERY: SoRA(A, g, B, s)})
    there = get("strict").from_host
    export(tmp_path / "strict", {QUERY: SoRA(there(A), there(g), there(B), s)})
    assert contents(tmp_path / "numpy") == contents(tmp_path / "strict")


# --------------------------------------------------------------------------------------------------------- the head


def test_cls_head_stands_without_prefix_and_norms_with_it(tmp_path: Path) -> None:
    export(tmp_path / "a", saved=classifier() | norm())
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {"base_model.model.classifier.weight", f"base_model.model.bert.{NORM}.bias"} <= tensors.keys()
    assert set(contents(tmp_path / "a")) == set(FILES) - {"head.safetensors"}


def test_mean_head_stands_in_a_file_of_its_own(tmp_path: Path) -> None:
    report = export(
        tmp_path / "a", saved=classifier() | norm(), head="mean", max_length=64, notes=["trained on snippets"]
    )
    assert set(contents(tmp_path / "a")) == set(FILES) == set(report.files)
    assert config_of(tmp_path / "a")["task_type"] == report.task_type == "FEATURE_EXTRACTION"
    assert config_of(tmp_path / "a")["modules_to_save"] == [NORM]
    assert not any("classifier" in key for key in load_file(tmp_path / "a" / "adapter_model.safetensors"))
    read = read_adapter(tmp_path / "a")
    assert (read.head, read.prefix) == ("mean", "")
    for name, tensor in (classifier() | norm()).items():
        np.testing.assert_array_equal(read.saved[name], tensor)
    ast.parse((tmp_path / "a" / "load_with_peft.py").read_text())
    readme = (tmp_path / "a" / "README.md").read_text()
    assert "- trained on snippets\n" in readme
    assert f"| `{DENSE}` | 0 |" in readme
    assert b'"max_length":"64"' in (tmp_path / "a" / "head.safetensors").read_bytes()


POOLER = {"pooler.dense.weight": np.eye(3, dtype=np.float32), "pooler.dense.bias": np.ones(3, np.float32)}


@layouts
@heads
def test_without_a_head_the_adapter_holds_lora_matrices_alone(tmp_path: Path, layout: Layout, head: HeadName) -> None:
    """What vLLM and llama.cpp's converter ask for: no modules_to_save, and no other key."""
    saved = classifier() | (POOLER if head == "cls" else {})
    report = export(tmp_path / "a", saved=saved, head=head, layout=layout, without_head=True)
    assert config_of(tmp_path / "a")["modules_to_save"] is None
    assert config_of(tmp_path / "a")["task_type"] == report.task_type == "FEATURE_EXTRACTION"
    keys = load_file(tmp_path / "a" / "adapter_model.safetensors").keys()
    assert all(re.fullmatch(r"base_model\.model\.encoder\..*\.lora_[AB]\.weight", key) for key in keys)
    read = read_adapter(tmp_path / "a")
    assert (read.head, read.prefix) == (head, "")
    assert {name: array.tolist() for name, array in read.saved.items()} == {n: a.tolist() for n, a in saved.items()}


@heads
def test_what_would_have_to_stay_inside_is_refused_by_name_without_a_head(tmp_path: Path, head: HeadName) -> None:
    with pytest.raises(SoRAError, match=rf"{NORM}\.weight is trained: expected LoRA matrices alone"):
        export(tmp_path / "a", saved=classifier() | norm(), head=head, without_head=True)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize(("dtype", "stored"), [("float16", "F16"), ("bfloat16", "BF16")])
@layouts
def test_half_precision_is_that_of_the_matrices_and_never_of_the_head(
    tmp_path: Path, layout: Layout, dtype: str, stored: str
) -> None:
    adapters = {QUERY: adapter([1, 0.1, -2], s=0.3), LAST: adapter([3])}
    report = export(tmp_path / "a", adapters, classifier() | norm(), layout=layout, dtype=dtype)
    read = read_adapter(tmp_path / "a")
    assert set(read.cast.values()) == {stored}
    assert {key.split(".")[-2] for key in read.cast} == {"lora_A", "lora_B"}
    assert report.dtype == dtype
    assert report.comparison.max_abs_diff == 0
    for module, lora in read.loras.items():
        distance = np.max(np.abs(lora.s * lora.B.astype(float) @ lora.A - delta(wide(adapters[module]))))
        assert distance <= report.rounding[module] < 0.5
    assert f"A and B in {dtype}" in (tmp_path / "a" / "README.md").read_text()


def wide(adapter: SoRA) -> SoRA:
    A, g, B = (part.astype(np.float64) for part in adapter[:3])
    return SoRA(A, g, B, adapter.s)


def test_what_half_precision_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    large = {QUERY: adapter([1]), LAST: adapter([65505.0])}
    with pytest.raises(SoRAError, match=rf"{LAST}: B diag\(g\) is not finite in float16"):
        export(tmp_path / "a", large, dtype="float16")
    with pytest.raises(SoRAError, match="dtype is 'int8': expected float64, float32, float16 or bfloat16"):
        export(tmp_path / "a", dtype="int8")
    assert not list(tmp_path.iterdir())
    export(tmp_path / "a", large, dtype="bfloat16")


# ----------------------------------------------------------------------------------------------------------- refusals

BIAS = f"{QUERY}.bias"


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (classifier() | {BIAS: np.ones(3, np.float32)}, f"{BIAS} is trained in a layer made for an adapter"),
        (
            classifier() | {"encoder.layer.0.intermediate.dense.bias": np.ones(3)},
            "encoder.layer.0.intermediate.dense.bias is trained in a layer made for an adapter",
        ),
        (classifier() | {f"{NORM}.weight": np.ones(3)}, f"{NORM}.bias is missing"),
        (classifier() | {f"{NORM}.gamma": np.ones(3)}, f"{NORM}.gamma is trained"),
        (
            classifier() | {"embeddings.word_embeddings.weight": np.ones((3, 3))},
            "embeddings.word_embeddings.weight is tra",
        ),
        ({}, "classifier.weight is missing"),
        (classifier() | {"classifier.bias": np.array([np.nan, 0])}, "classifier.bias is not finite"),
        (classifier() | {"classifier.bias": np.array([1, 2])}, "classifier.bias has dtype int64"),
    ],
)
def test_trained_tensor_that_peft_cannot_hold_is_refused_by_name(
    tmp_path: Path, saved: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SoRAError, match=sentence):
        export(tmp_path / "a", saved=saved)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("adapters", "sentence"),
    [
        ({}, "no adapter"),
        ({f"bert.{QUERY}": adapter([1])}, f"bert.{QUERY} carries an adapter"),
        ({"classifier": adapter([1])}, "classifier carries an adapter"),
        ({QUERY: adapter([1, np.nan])}, f"{QUERY}: gates .1. are not finite"),
        ({QUERY: adapter([1])._replace(A=np.full((1, 2), np.inf, np.float32))}, f"{QUERY}: A is not finite"),
        ({QUERY: adapter([1e38])._replace(B=np.full((3, 1), 1e38, np.float32))}, r"B diag\(g\) is not finite"),
        ({QUERY: adapter([1], s=np.inf)}, f"{QUERY}: scale s is inf"),
        ({QUERY: adapter([1])._replace(A=np.ones((2, 2), np.float32))}, f"{QUERY}: A has shape"),
        ({QUERY: adapter([1])._replace(B=np.ones((3, 1)))}, f"{QUERY}: mixed dtypes"),
        ({QUERY: adapter([1], dtype="float16")}, f"{QUERY}: A has dtype float16"),
        ({"pooler.dense": adapter([1])}, "pooler.dense.weight is trained in a layer made for an adapter"),
    ],
)
def test_adapter_that_is_not_sound_is_refused_by_name(tmp_path: Path, adapters: dict[str, SoRA], sentence: str) -> None:
    pooler = {"pooler.dense.weight": np.eye(3), "pooler.dense.bias": np.zeros(3)}
    with pytest.raises(SoRAError, match=sentence):
        export(tmp_path / "a", adapters, classifier() | (pooler if "pooler.dense" in adapters else {}))
    assert not list(tmp_path.iterdir())


def test_unknown_head_and_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match="head is 'max'"):
        export(tmp_path / "a", head="max")  # type: ignore[arg-type]
    with pytest.raises(SoRAError, match="layout is 'dense'"):
        export(tmp_path / "a", layout="dense")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------- complete or not at all


def test_existing_folder_is_refused_by_name_and_left_alone(tmp_path: Path) -> None:
    export(tmp_path / "a")
    before = contents(tmp_path / "a")
    with pytest.raises(SoRAError, match=r"a exists already"):
        export(tmp_path / "a", layout="uniform")
    assert contents(tmp_path / "a") == before


def test_overwrite_replaces_an_export_whole(tmp_path: Path) -> None:
    export(tmp_path / "a", head="mean")
    export(tmp_path / "a", head="cls", overwrite=True)
    export(tmp_path / "b", head="cls")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_overwrite_spares_a_folder_with_anything_else_in_it(tmp_path: Path) -> None:
    export(tmp_path / "a")
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    before = contents(tmp_path / "a")
    with pytest.raises(SoRAError, match=r"holds thesis\.tex"):
        export(tmp_path / "a", overwrite=True)
    assert contents(tmp_path / "a") == before
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SoRAError, match="not a folder"):
        export(tmp_path / "file", overwrite=True)


def refuse_rename_to(target: Path) -> Callable[[Path, Path], Path]:
    rename = Path.rename

    def renamed(self: Path, other: Path) -> Path:
        if other == target and ".writing-" in self.name:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, other)

    return renamed


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_between_writing_and_renaming_leaves_the_target_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    if overwrite:
        export(tmp_path / "a")
    before = contents(tmp_path / "a") if overwrite else None
    monkeypatch.setattr(Path, "rename", refuse_rename_to(tmp_path / "a"))
    with pytest.raises(SoRAError, match="a cannot be written: Input/output error"):
        export(tmp_path / "a", layout="uniform", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == (["a"] if overwrite else [])
    assert not overwrite or contents(tmp_path / "a") == before


def test_kill_at_any_rename_leaves_the_old_or_the_new_folder_whole(tmp_path: Path) -> None:
    """The process dies, without cleaning up, just before its n-th rename."""
    export(tmp_path / "old")
    export(tmp_path / "new", layout="uniform")
    old, new = contents(tmp_path / "old"), contents(tmp_path / "new")
    script = (
        "import os, sys, pathlib, runpy\n"
        "left, rename = [int(sys.argv[1])], pathlib.Path.rename\n"
        "def dying(self, target):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: os._exit(9)\n"
        "    return rename(self, target)\n"
        "pathlib.Path.rename = dying\n"
        "from sora_ref.storage.folder import write_folder\n"
        "source, target = map(pathlib.Path, sys.argv[2:])\n"
        "files = {path.name: path.read_bytes() for path in source.iterdir()}\n"
        "write_folder(target, files, overwrite=True, replaceable=files, check=lambda folder: None)\n"
    )
    for renames in range(3):
        parent = tmp_path / str(renames)
        export(parent / "a")
        done = subprocess.run([sys.executable, "-c", script, str(renames), tmp_path / "new", parent / "a"], check=False)
        assert done.returncode == (9 if renames < 2 else 0)
        folders = [contents(folder) for folder in parent.iterdir()]
        assert (new if renames == 2 else old) in folders
        assert old in folders or new in folders


def test_disk_that_gives_back_something_else_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def flipped(self: Path) -> bytes:
        data = read(self)
        return data[:-1] + bytes([data[-1] ^ 1]) if self.suffix == ".safetensors" else data

    monkeypatch.setattr(Path, "read_bytes", flipped)
    with pytest.raises(SoRAError, match=r"adapter_model\.safetensors differs from what was written"):
        export(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_writer_that_scrambles_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison does not trust `order="C"`: without it, safetensors#825 is caught on reading back."""
    fortran = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    if np.array_equal(load(save({"x": fortran}))["x"], fortran):
        pytest.skip("this safetensors writes F-ordered arrays right")
    asarray = np.asarray
    monkeypatch.setattr(np, "asarray", lambda array, *args, order=None, **options: asarray(array, *args, **options))
    with pytest.raises(SoRAError, match=r"classifier\.weight was read back changed"):
        export(tmp_path / "a", saved=classifier() | {"classifier.weight": fortran})
    assert not list(tmp_path.iterdir())


def test_scale_that_is_read_back_changed_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sora_ref.peft.format._alpha", lambda lora: lora.s)
    with pytest.raises(SoRAError, match="a scale was read back changed"):
        export(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_parent_that_is_no_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SoRAError, match="file is not a folder"):
        export(tmp_path / "file" / "a")


@pytest.mark.parametrize(("owner", "function", "code"), [(os, "fsync", errno.ENOSPC), (Path, "mkdir", errno.EACCES)])
def test_disk_that_refuses_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, function: str, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(owner, function, refuse)
    with pytest.raises(SoRAError, match=f"a cannot be written: {os.strerror(code)}"):
        export(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_neither_torch_nor_peft_is_loaded() -> None:
    code = "import sys, sora_ref.peft; sys.exit(bool({'torch', 'peft', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
