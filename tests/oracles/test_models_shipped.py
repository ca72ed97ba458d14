"""BERT's kin from the texts to what is shipped: transformers and PEFT compute the logits that our run computes.

All work is in float64 on random weights, so that the two sides differ in the order of summation alone; see `test_peft`
for TOLERANCE, of which 2 % are seen.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import VOCABULARY, base_keys, make_rows, run_once, write_task

from sora_ref.peft import adapters_from, read_adapter
from sora_ref.pruning import delta
from sora_ref.run.evaluate import predict_logits
from sora_ref.run.ship import write_merged, write_peft
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.trained import load_trained

WANTED = "is not installed: pip install 'sora_ref[oracles]'"
torch = pytest.importorskip("torch", reason=f"torch {WANTED}")
transformers = pytest.importorskip("transformers", reason=f"transformers {WANTED}")
peft = pytest.importorskip("peft", reason=f"peft {WANTED}")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOLERANCE = 1024 * 2.0**-53
TEXTS = [row["text"] for row in make_rows("test")]


def save(model: Any, folder: Path) -> None:
    """In float64, all weights random, those of norms too."""
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)


def write_roberta(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=letters, show_progress=False),
    )
    model = json.loads(made.to_str())["model"]
    tokenizer = transformers.RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=40,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    save(transformers.RobertaForMaskedLM(config), folder)
    tokenizer.save_pretrained(folder)


def write_distilbert(folder: Path) -> None:
    folder.mkdir()
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *VOCABULARY[4:])
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = transformers.DistilBertConfig(
        vocab_size=len(words), dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=40
    )
    save(transformers.DistilBertForMaskedLM(config), folder)
    transformers.DistilBertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)


WRITERS = {"roberta": write_roberta, "distilbert": write_distilbert}


@pytest.fixture(scope="module", params=[(kind, head) for kind in WRITERS for head in ("cls", "mean")], ids="-".join)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, Path]:
    """A trained run in float64, its head, and a folder for what is shipped of it."""
    (kind, head), folder = request.param, tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    WRITERS[kind](folder / kind)
    keys = base_keys(folder / kind, write_task(folder / "task"))
    keys |= {"model.head": head, "model.max_length": 32, "dtype": "float64", "train.max_steps": 4}
    run_once(folder / "run", keys)
    return load_trained(folder / "run"), head, folder


def ours(loaded: Any) -> Any:
    setup = loaded.setup
    examples = read_task(setup.config).splits["test"]
    return predict_logits(setup, loaded.params, encode(examples, setup.tokenizer, setup.model.config))


def batch_of(folder: Path) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return dict(tokenizer(TEXTS, padding=True, truncation=True, max_length=32, return_tensors="pt"))


def apart(found: Any, expected: Any) -> float:
    assert found.shape == expected.shape
    return float(np.max(np.abs(found - expected)))


def classifier(folder: Path) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()


@pytest.mark.independent("SORA-PRUNE-4")
def test_transformers_computes_our_logits_with_the_merged_folder(run: Any) -> None:
    loaded, head, folder = run
    merged = folder / "merged"
    write_merged(loaded, merged)
    if head == "cls":
        with torch.no_grad():
            theirs = classifier(merged)(**batch_of(merged)).logits.numpy()
    else:
        shipped = runpy.run_path(str(merged / "load_with_transformers.py"))["Classifier"]()
        theirs = shipped.logits(batch_of(merged)).numpy()
    assert apart(theirs, ours(loaded)) <= TOLERANCE
    assert apart(ours(load_trained(merged)), ours(loaded)) <= TOLERANCE
    assert np.ptp(ours(loaded)[:, 0]) > 1e3 * TOLERANCE


@pytest.mark.independent("SORA-PRUNE-2", "SORA-PRUNE-3")
@pytest.mark.parametrize("without_head", [False, True])
def test_peft_computes_our_logits_with_the_adapter(run: Any, without_head: bool) -> None:
    loaded, head, folder = run
    out, base = folder / f"peft-{without_head}", loaded.setup.folder
    write_peft(loaded, out, "compact", str(base), without_head=without_head)
    if head == "cls" and not without_head:
        model = peft.PeftModel.from_pretrained(classifier(base), out).eval()
        with torch.no_grad():
            theirs = model(**batch_of(base)).logits.numpy()
    else:
        shipped = runpy.run_path(str(out / "load_with_peft.py"))["Classifier"]()
        theirs = shipped.logits(batch_of(base)).numpy()
    assert apart(theirs, ours(loaded)) <= TOLERANCE
    read = read_adapter(out)
    assert read.head == head
    for module, adapter in adapters_from(read).items():
        np.testing.assert_allclose(delta(adapter), delta(loaded.setup.adapters(loaded.params)[module]), atol=TOLERANCE)
    names = loaded.setup.model.head_record.names
    assert {name: read.saved[name].tobytes() for name in names} == {n: loaded.params[n].tobytes() for n in names}
