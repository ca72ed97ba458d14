"""What sora_ref exports, loaded by PEFT and transformers themselves, beside W0 + s·B diag(g) A set by hand.

Both sides run torch's BERT in float64 on the same weights and differ in the order of summation alone: W0 x + s B'(A x)
against (W0 + ΔW) x.  TOLERANCE is 1024 units of roundoff (1.1e-13) for outputs of order 1 after 12 layers: 1.4e-14 is
seen, and a wrong scale moves them by more than 1e-3, as the control shows.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA
from sora_ref.models import Batch, HeadName
from sora_ref.models.bert import BERT
from sora_ref.models.classifier import Classifier, classifier_forward
from sora_ref.models.encoder import EncoderConfig
from sora_ref.models.pretrained import load_model
from sora_ref.peft import adapters_from, export_adapter, read_adapter
from sora_ref.peft.format import CONFIG_FILE, LOADER_FILE, README_FILE, Layout, task_of
from sora_ref.pruning import delta

WANTED = "is not installed: pip install 'sora_ref[oracles]'"
torch = pytest.importorskip("torch", reason=f"torch {WANTED}")
transformers = pytest.importorskip("transformers", reason=f"transformers {WANTED}")
peft = pytest.importorskip("peft", reason=f"peft {WANTED}")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WEIGHTS = "model.safetensors"
HIDDEN, WIDE, LAYERS, OUTPUTS = 16, 24, 12, 3  # 12 layers, so that layer 1 is told from layers 10 and 11
TOLERANCE = 1024 * 2.0**-53
SIZES = EncoderConfig(12, HIDDEN, LAYERS, 2, WIDE, 16, 2)
MODULES = BERT.modules(SIZES)
SHAPES = BERT.shapes(SIZES) | {"pooler.dense.weight": (HIDDEN, HIDDEN), "pooler.dense.bias": (HIDDEN,)}

layouts = pytest.mark.parametrize("layout", get_args(Layout))
heads = pytest.mark.parametrize("head", ["cls", "mean"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, norms included, as a Hugging Face folder in float64."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "dull", "film", "was", "this", "plot"]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=HIDDEN,
        intermediate_size=WIDE,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=16,
        num_labels=OUTPUTS,
    )
    model = transformers.BertForSequenceClassification(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    """Three sequences of different lengths, the second sentence of type 1."""
    ids = torch.tensor([[2, 5, 6, 8, 3, 0, 0], [2, 10, 11, 3, 9, 7, 3], [2, 7, 3, 0, 0, 0, 0]])
    types = torch.tensor([[0] * 7, [0, 0, 0, 0, 1, 1, 1], [0] * 7])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": types}


def random_adapters(*, several_scales: bool = False, open_gates: bool = True) -> dict[str, SoRA]:
    """Rank 5 everywhere; about half the gates zero, the others of either sign; every seventh module all zero."""
    rng = np.random.default_rng(1)
    adapters = {}
    for i, module in enumerate(MODULES):
        out, in_ = SHAPES[f"{module}.weight"]
        g = rng.normal(size=5) * rng.integers(0, 2, size=5) * (open_gates and i % 7 != 0)
        s = 0.5 + i % 3 if several_scales else 1.6
        adapters[module] = SoRA(rng.normal(size=(5, in_)) / 4, g, rng.normal(size=(out, 5)) / 4, s)
    return adapters


def random_saved(*, all_of_it: bool) -> dict[str, np.ndarray]:
    """A classifier; and with all_of_it the pooler and LayerNorms whose names end alike."""
    rng = np.random.default_rng(2)
    modules = [
        "encoder.layer.1.output.LayerNorm",
        "encoder.layer.11.attention.output.LayerNorm",
        "embeddings.LayerNorm",
    ]
    shapes: dict[str, tuple[int, ...]] = {
        f"{norm}.{part}": (HIDDEN,) for norm in modules for part in ("weight", "bias")
    }
    shapes |= {name: SHAPES[name] for name in ("pooler.dense.weight", "pooler.dense.bias")}
    classifier = {"classifier.weight": (OUTPUTS, HIDDEN), "classifier.bias": (OUTPUTS,)}
    return {name: rng.normal(size=shape) for name, shape in ((shapes if all_of_it else {}) | classifier).items()}


def auto(head: HeadName) -> Any:
    return transformers.AutoModelForSequenceClassification if head == "cls" else transformers.AutoModel


def by_hand(base: Path, head: HeadName, adapters: Mapping[str, SoRA], saved: Mapping[str, np.ndarray]) -> Any:
    """torch's model with W0 + s·B diag(g) A and the saved tensors put in place."""
    model = auto(head).from_pretrained(base).eval()
    state = model.state_dict()
    name = task_of(BERT, BERT.heads[head]).full_name
    for module, (A, g, B, s) in adapters.items():
        state[name(f"{module}.weight")] += torch.from_numpy(s * B @ np.diag(g) @ A)
    state |= {name(n): torch.from_numpy(t) for n, t in saved.items() if name(n) in state}
    model.load_state_dict(state)
    return model


def output(model: Any, batch: Mapping[str, Any]) -> np.ndarray:
    """Logits, or the bare encoder's hidden states where a token is."""
    with torch.no_grad():
        out = model(**batch)
    values = out.logits if hasattr(out, "logits") else out.last_hidden_state[batch["attention_mask"] == 1]
    return np.asarray(values)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.float64
    return float(np.max(np.abs(a - b)))


@pytest.mark.independent("SORA-PRUNE-2", "SORA-PRUNE-3", "SORA-PRUNE-4")
@heads
@layouts
@pytest.mark.parametrize(("several_scales", "all_saved"), [(False, False), (True, True)])
def test_peft_computes_with_the_export_what_the_merged_weights_compute(
    base: Path, batch: Any, tmp_path: Path, head: HeadName, layout: Layout, several_scales: bool, all_saved: bool
) -> None:
    adapters, saved = random_adapters(several_scales=several_scales), random_saved(all_of_it=all_saved)
    folder = tmp_path / "adapter"
    export_adapter(folder, adapters, saved, architecture=BERT, head=head, layout=layout, base_model=str(base))
    want = output(by_hand(base, head, adapters, saved), batch)

    model = peft.PeftModel.from_pretrained(auto(head).from_pretrained(base), folder).eval()
    assert distance(output(model, batch), want) <= TOLERANCE
    assert distance(output(model.merge_and_unload(), batch), want) <= TOLERANCE

    untouched = output(auto(head).from_pretrained(base).eval(), batch)
    assert distance(untouched, want) > 1e-3, "the adapter changes nothing that is seen"


@pytest.mark.independent("SORA-PRUNE-3")
@heads
@layouts
def test_transformers_load_adapter_computes_the_same(
    base: Path, batch: Any, tmp_path: Path, head: HeadName, layout: Layout
) -> None:
    adapters, saved = random_adapters(), random_saved(all_of_it=True)
    folder = tmp_path / "adapter"
    export_adapter(folder, adapters, saved, architecture=BERT, head=head, layout=layout, base_model=str(base))
    model = auto(head).from_pretrained(base)
    model.load_adapter(str(folder))
    assert distance(output(model.eval(), batch), output(by_hand(base, head, adapters, saved), batch)) <= TOLERANCE


@pytest.mark.independent("SORA-PRUNE-3")
@layouts
def test_shipped_loader_computes_mean_pooled_logits(base: Path, batch: Any, tmp_path: Path, layout: Layout) -> None:
    adapters, saved = random_adapters(), random_saved(all_of_it=False)
    folder = tmp_path / "adapter"
    names = ["bad", "so so", "good"]
    export_adapter(
        folder,
        adapters,
        saved,
        architecture=BERT,
        head="mean",
        layout=layout,
        base_model=str(base),
        labels=names,
        max_length=6,
    )
    loaded = runpy.run_path(str(folder / LOADER_FILE))["Classifier"]()
    with torch.no_grad():
        hidden = by_hand(base, "mean", adapters, saved)(**batch).last_hidden_state.numpy()
    mean = np.stack([rows[:n].mean(axis=0) for rows, n in zip(hidden, (5, 7, 3), strict=True)])
    want = mean @ saved["classifier.weight"].T + saved["classifier.bias"]
    assert distance(loaded.logits(batch).numpy(), want) <= TOLERANCE

    texts = ["a fine film", "this plot was dull a film was fine"]

    def cut(*texts: Any) -> Any:
        return loaded.tokenizer(*texts, truncation=True, max_length=6, padding=True, return_tensors="pt")

    assert cut(texts)["input_ids"][1][5:].tolist() == [3]
    assert loaded.predict(texts) == [names[row] for row in loaded.logits(cut(texts)).argmax(dim=1).tolist()]
    assert loaded.predict(texts) == [loaded.predict([text])[0] for text in texts]
    pair = loaded.logits(cut(["a fine film"], ["dull"]))
    assert loaded.predict(["a fine film"], ["dull"]) == [names[int(pair.argmax())]]


@pytest.mark.independent("SORA-PRUNE-3")
@layouts
def test_loader_of_the_head_free_form_computes_the_logits_of_the_whole(
    base: Path, batch: Any, tmp_path: Path, layout: Layout
) -> None:
    """The pooler from the head's file where it was trained, else the base's own."""
    for saved in (random_saved(all_of_it=False), random_saved(all_of_it=False) | random_pooler()):
        adapters, folder = random_adapters(), tmp_path / str(len(saved))
        about: dict[str, Any] = {"layout": layout, "base_model": str(base), "without_head": True}
        export_adapter(folder, adapters, saved, architecture=BERT, head="cls", **about)
        loaded = runpy.run_path(str(folder / LOADER_FILE))["Classifier"]()
        want = output(by_hand(base, "cls", adapters, saved), batch)
        assert distance(loaded.logits(batch).numpy(), want) <= TOLERANCE


def random_pooler() -> dict[str, np.ndarray]:
    return {name: array for name, array in random_saved(all_of_it=True).items() if name.startswith("pooler")}


@pytest.mark.independent("SORA-PRUNE-3")
@layouts
def test_pooler_that_is_new_in_both_comes_with_the_adapter(
    base: Path, batch: Any, tmp_path: Path, layout: Layout
) -> None:
    """A base without a pooler, as a masked language model has none: whatever is drawn for it, the logits are ours."""
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    weights = load_file(bare / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k and "classifier" not in k}, bare / WEIGHTS)
    adapters, saved = random_adapters(), random_saved(all_of_it=False) | random_pooler()
    want = output(by_hand(base, "cls", adapters, saved), batch)
    export_adapter(tmp_path / "a", adapters, saved, architecture=BERT, head="cls", layout=layout, base_model=str(bare))
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = auto("cls").from_pretrained(bare, dtype=torch.float64)
        drawn.append(model.bert.pooler.dense.weight.detach().numpy().copy())
        assert distance(output(peft.PeftModel.from_pretrained(model, tmp_path / "a").eval(), batch), want) <= TOLERANCE
    assert not np.array_equal(*drawn)


@pytest.mark.independent("SORA-PRUNE-3")
@layouts
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_peft_loads_half_precision_as_we_stored_it(base: Path, tmp_path: Path, layout: Layout, dtype: str) -> None:
    adapters, saved = random_adapters(several_scales=True), random_saved(all_of_it=False)
    folder = tmp_path / "adapter"
    about: dict[str, Any] = {"layout": layout, "base_model": str(base), "dtype": dtype}
    report = export_adapter(folder, adapters, saved, architecture=BERT, head="cls", **about)
    model = peft.PeftModel.from_pretrained(auto("cls").from_pretrained(base), folder).eval()
    layers = {n.removeprefix("base_model.model.bert."): layer for n, layer in model.named_modules()}
    shares = []
    for module in (name for name, rank in report.ranks.items() if rank):
        lora = layers[module]
        A, B = (getattr(lora, f"lora_{m}")["default"].weight.detach().double().numpy() for m in "AB")
        moved = np.max(np.abs(lora.scaling["default"] * B @ A - delta(adapters[module])))
        shares.append(moved / report.rounding[module])
    assert max(shares) <= 1
    assert max(shares) > 0.1, "the bound is idle"


@pytest.mark.independent("SORA-PRUNE-3")
@heads
def test_every_piece_of_code_in_the_readme_loads_the_classifier(
    base: Path, batch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: HeadName
) -> None:
    adapters, saved = random_adapters(), random_saved(all_of_it=False)
    folder = tmp_path / "adapter"
    labels = ["bad", "so so", "good"]
    export_adapter(
        folder, adapters, saved, architecture=BERT, head=head, layout="compact", base_model=str(base), labels=labels
    )
    pieces = re.findall("```python\n(.*?)```", (folder / README_FILE).read_text(), re.DOTALL)
    assert len(pieces) == (2 if head == "cls" else 1)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "load_with_peft", raising=False)
    names: dict[str, Any] = {}
    exec(pieces[0], names)
    loaded = names["model"]
    tokens = loaded.tokenizer(["a fine film", "a dull one"], padding=True, return_tensors="pt")
    assert names["predictions"] == [labels[row] for row in loaded.logits(tokens).argmax(dim=1).tolist()]
    if head == "cls":
        exec(pieces[1], names)
        want = output(by_hand(base, "cls", adapters, saved), batch)
        assert distance(output(names["model"], batch), want) <= TOLERANCE
        assert distance(loaded.logits(batch).numpy(), want) <= TOLERANCE


@pytest.mark.independent("SORA-LINEAR-1", "SORA-PRUNE-2", "SORA-PRUNE-3")
@heads
@layouts
def test_our_own_model_computes_the_logits_of_the_exported_one(
    base: Path, batch: Any, tmp_path: Path, head: HeadName, layout: Layout
) -> None:
    adapters, saved = random_adapters(), random_saved(all_of_it=False)
    folder = tmp_path / "adapter"
    export_adapter(folder, adapters, saved, architecture=BERT, head=head, layout=layout, base_model=str(base))
    if head == "cls":
        model = peft.PeftModel.from_pretrained(auto("cls").from_pretrained(base), folder).eval()
        theirs = output(model, batch)
    else:
        theirs = runpy.run_path(str(folder / LOADER_FILE))["Classifier"]().logits(batch).numpy()

    _, config, params = load_model(base, dtype="float64")
    ours = Batch(batch["input_ids"].numpy(), batch["token_type_ids"].numpy(), batch["attention_mask"].numpy() == 1)
    for trained in (adapters, adapters_from(read_adapter(folder))):
        parts = {f"{m}.sora_{part}": getattr(a, part) for m, a in trained.items() for part in "AgB"}
        scales = {module: adapter.s for module, adapter in trained.items()}
        logits, _ = classifier_forward(
            Classifier(BERT, config, head, OUTPUTS), params | saved | parts, ours, scales=scales
        )
        assert distance(logits, theirs) <= TOLERANCE


@pytest.mark.independent("SORA-LINEAR-2", "SORA-PRUNE-3")
def test_without_alpha_pattern_the_logits_are_wrong_and_nobody_says_so(base: Path, batch: Any, tmp_path: Path) -> None:
    adapters, saved = random_adapters(), random_saved(all_of_it=False)
    folder = tmp_path / "adapter"
    export_adapter(folder, adapters, saved, architecture=BERT, head="cls", layout="compact", base_model=str(base))
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | {"alpha_pattern": {}}))
    model = peft.PeftModel.from_pretrained(auto("cls").from_pretrained(base), folder).eval()
    assert distance(output(model, batch), output(by_hand(base, "cls", adapters, saved), batch)) > 1e-3


@pytest.mark.independent("SORA-PRUNE-1")
@heads
@layouts
def test_adapter_without_components_loads_and_changes_nothing_but_the_head(
    base: Path, batch: Any, tmp_path: Path, head: HeadName, layout: Layout
) -> None:
    adapters, saved = random_adapters(open_gates=False), random_saved(all_of_it=False)
    folder = tmp_path / "adapter"
    report = export_adapter(folder, adapters, saved, architecture=BERT, head=head, layout=layout, base_model=str(base))
    assert report.placeholder == MODULES[0]
    model = peft.PeftModel.from_pretrained(auto(head).from_pretrained(base), folder).eval()
    assert distance(output(model, batch), output(by_hand(base, head, {}, saved), batch)) == 0


@pytest.mark.independent("SORA-PRUNE-4")
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("targets", [["query", "attention.output.dense"], r".*layer\.(1|10)\..*(query|dense)"])
def test_adapter_written_by_peft_is_read_as_peft_computes_it(
    base: Path, tmp_path: Path, use_rslora: bool, targets: list[str] | str
) -> None:
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=3,
        lora_alpha=5,
        target_modules=targets,
        use_rslora=use_rslora,
        rank_pattern={"^bert.encoder.layer.10.*": 1, "attention.output.dense": 4, "layer.1.attention.*": 2},
        alpha_pattern={"output.dense": 11, "query": 7},
        init_lora_weights=False,
    )
    model = peft.get_peft_model(auto("cls").from_pretrained(base), config)
    model.save_pretrained(tmp_path)
    read = read_adapter(tmp_path)

    layers = {
        name.removeprefix("base_model.model.bert."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, peft.tuners.lora.Linear)
    }
    assert layers.keys() == read.loras.keys()
    for module, adapter in adapters_from(read).items():
        want = layers[module].get_delta_weight("default").numpy(force=True)
        assert adapter.s == layers[module].scaling["default"]
        np.testing.assert_allclose(delta(adapter), want, rtol=0, atol=TOLERANCE)
    assert (read.prefix, read.head) == ("bert.", "cls")
    np.testing.assert_array_equal(
        read.saved["classifier.weight"],
        model.state_dict()["base_model.model.classifier.modules_to_save.default.weight"],
    )


@pytest.mark.independent
def test_patterns_that_peft_sorts_on_saving_into_another_meaning_are_refused(base: Path, tmp_path: Path) -> None:
    """The first pattern wins, and PEFT writes them in alphabetical order: its own reload of this one fails as well."""
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        target_modules=["query"],
        rank_pattern={"layer.1.attention.self.query": 2, "attention.self.query": 4},
    )
    peft.get_peft_model(auto("cls").from_pretrained(base), config).save_pretrained(tmp_path)
    with pytest.raises(SoRAError, match=r"encoder.layer.1.attention.self.query has A \(2, 16\) .* expected \(4, in\)"):
        read_adapter(tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.PeftModel.from_pretrained(auto("cls").from_pretrained(base), tmp_path)


@pytest.mark.independent
@heads
@layouts
def test_export_saved_again_by_peft_reads_the_same(base: Path, tmp_path: Path, head: HeadName, layout: Layout) -> None:
    adapters, saved = random_adapters(several_scales=True), random_saved(all_of_it=True)
    first, second = tmp_path / "first", tmp_path / "second"
    export_adapter(first, adapters, saved, architecture=BERT, head=head, layout=layout, base_model=str(base))
    peft.PeftModel.from_pretrained(auto(head).from_pretrained(base), first).save_pretrained(second)
    one, two = read_adapter(first), read_adapter(second)
    assert one.loras.keys() == two.loras.keys()
    for module, (A, B, s) in one.loras.items():
        np.testing.assert_array_equal(two.loras[module].A, A)
        np.testing.assert_array_equal(two.loras[module].B, B)
        assert two.loras[module].s == s
    for name, tensor in two.saved.items():
        np.testing.assert_array_equal(one.saved[name], tensor)
