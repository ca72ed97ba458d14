"""What leaves a run predicts in transformers and PEFT, by the README's own lines, what `sora-ref predict` predicts."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import VOCABULARY, base_keys, make_rows, run_once, write_model, write_task

from sora_ref.peft.format import Layout
from sora_ref.run.data import Example
from sora_ref.run.predict import predict_records
from sora_ref.run.ship import write_merged, write_peft
from sora_ref.run.trained import Loaded, load_trained

WANTED = "is not installed: pip install 'sora_ref[oracles]'"
torch = pytest.importorskip("torch", reason=f"torch {WANTED}")
transformers = pytest.importorskip("transformers", reason=f"transformers {WANTED}")
pytest.importorskip("peft", reason=f"peft {WANTED}")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning"),
]

TEXTS = [str(row["text"]) for row in make_rows("test")] + ["a fine film", "a dull one", "good " * 20]
KINDS: dict[str, dict[str, Any]] = {
    "mean": {"model__head": "mean"},
    "cls": {"model__head": "cls"},
    "mean value": {"model__head": "mean", "task__kind": "regression", "task__label": "rating"},
    "cls value": {"model__head": "cls", "task__kind": "regression", "task__label": "rating"},
}


@pytest.fixture(scope="module", params=KINDS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """A run on a tiny model with a tokenizer that transformers has written, and without a pooler."""
    parent = tmp_path_factory.mktemp("run")
    model = write_model(parent / "tiny")
    (parent / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    transformers.BertTokenizerFast(vocab=str(parent / "vocab.txt"), mask_token="[UNK]").save_pretrained(model)
    keys = base_keys(model, write_task(parent / "task"))
    run_once(parent / "run", keys, **KINDS[request.param], gate__strength=0.01, train__lr=1e-2, train__epochs=10)
    return load_trained(parent / "run")


def ours(loaded: Loaded) -> list[Any]:
    examples = [Example(str(row), text, None, None) for row, text in enumerate(TEXTS)]
    return [record["prediction"] for record in predict_records(loaded, examples)]


def by_the_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is defined once the README's first piece of code has run in its folder."""
    code = re.search("```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("load_with_peft", "load_with_transformers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    names: dict[str, Any] = {}
    exec(code[1], names)
    return names


def same(found: list[Any], expected: list[Any]) -> bool:
    """Names are equal; values, of two implementations in float32, to 2⁻¹²: their span is 1, and 10⁻⁶ is seen."""
    if isinstance(expected[0], str):
        return found == expected
    return bool(max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 2**-12)


@pytest.mark.independent("SORA-PRUNE-4")
def test_merged_folder_predicts_by_its_readme_what_we_predict(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_merged(loaded, tmp_path / "merged")
    names = by_the_readme(tmp_path / "merged", monkeypatch)
    expected = ours(loaded)
    value = loaded.setup.labels.kind == "regression"
    if loaded.setup.model.head == "cls":
        field = "score" if value else "label"
        assert same([row[field] for row in names["classify"](TEXTS)], expected)
        assert same([row[field] for row in names["predictions"]], expected[12:14])
    else:
        assert same(names["model"].predict(TEXTS), expected)
        assert same(names["predictions"], expected[12:14])
    assert value or set(expected) == {"bad", "good"}, "the run has learned nothing that could be seen"


@pytest.mark.independent("SORA-PRUNE-4")
def test_pipeline_on_a_merged_mean_head_fails_instead_of_drawing_a_classifier(loaded: Loaded, tmp_path: Path) -> None:
    if loaded.setup.model.head == "cls":
        return
    write_merged(loaded, tmp_path / "merged")
    with pytest.raises(ValueError, match="empty sequence"):
        transformers.pipeline("text-classification", str(tmp_path / "merged"))("a fine film")


@pytest.mark.independent("SORA-PRUNE-3")
@pytest.mark.parametrize("layout", ["compact", "folded"])
def test_pipeline_on_an_adapter_of_the_bare_encoder_finds_no_module_and_fails(
    loaded: Loaded, tmp_path: Path, layout: Layout
) -> None:
    base = str(loaded.setup.folder)
    write_peft(loaded, tmp_path / "a", layout, base, without_head=True)
    with pytest.raises(ValueError, match=r"Target modules .* not found in the base model"):
        transformers.pipeline("text-classification", str(tmp_path / "a"), tokenizer=base)


@pytest.mark.independent("SORA-PRUNE-3")
@pytest.mark.parametrize("without_head", [False, True])
def test_exported_folder_predicts_by_its_readme_what_we_predict(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_head: bool
) -> None:
    base = str(loaded.setup.folder)
    layouts: tuple[Layout, ...] = ("compact", "folded")
    for layout in layouts:
        write_peft(loaded, tmp_path / layout, layout, base, without_head=without_head)
        names = by_the_readme(tmp_path / layout, monkeypatch)
        expected = ours(loaded)
        assert same(names["predictions"], expected[12:14])
        assert same(names["model"].predict(TEXTS), expected)


@pytest.mark.weights
@pytest.mark.independent("SORA-PRUNE-3")
def test_pooler_of_a_real_masked_language_model_comes_with_the_adapter(tmp_path: Path) -> None:
    """bert-tiny has no pooler: whatever transformers draws for it, PEFT puts ours in its place."""
    from peft import PeftModel

    keys = {
        "model.path": "bert-tiny",
        "model.head": "cls",
        "model.max_length": 32,
        "task.name": "movies",
        "task.limit": 64,
        "train.epochs": 1,
        "adapter.r": 2,
    }
    run_once(tmp_path / "run", keys)
    loaded = load_trained(tmp_path / "run")
    report = write_peft(loaded, tmp_path / "a", "compact", str(loaded.setup.folder))
    assert set(report.modules_to_save) == {"bert.pooler.dense", "classifier"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(loaded.setup.folder)
    batch = tokenizer(TEXTS[:4], padding=True, return_tensors="pt")
    logits, drawn = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(loaded.setup.folder)
        drawn.append(model.bert.pooler.dense.weight.detach().clone())
        with torch.no_grad():
            logits.append(PeftModel.from_pretrained(model, tmp_path / "a").eval()(**batch).logits)
    assert not torch.equal(*drawn)
    assert torch.equal(*logits)
    rows = predict_records(loaded, [Example(str(k), text, None, None) for k, text in enumerate(TEXTS[:4])])
    for record, found in zip(rows, logits[0].softmax(dim=1), strict=True):
        assert abs(max(record["probabilities"].values()) - float(found.max())) <= 2**-12
