"""A merged folder in transformers, from the texts to the classes: the same prediction for every row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers
from tiny_bert import SPREAD
from tiny_run import run_once

from sora_ref.run.artefacts import is_cached
from sora_ref.run.data import load_task
from sora_ref.run.evaluate import predict_logits
from sora_ref.run.ship import write_merged
from sora_ref.run.text import encode
from sora_ref.run.trained import load_trained

ROWS = 100
LENGTH = 48


def ours(folder: Path, texts: Sequence[Any]) -> npt.NDArray[Any]:
    loaded = load_trained(folder)
    encoded = encode(texts, loaded.setup.tokenizer, loaded.setup.model.config)
    return np.asarray(predict_logits(loaded.setup, loaded.params, encoded))


def theirs(folder: Path, texts: Sequence[Any], dtype: torch.dtype, **settings: Any) -> npt.NDArray[Any]:
    """As a user does it: the folder's own tokeniser and model, eight texts at a time."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).to(dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **settings)
    logits = []
    with torch.no_grad():
        for first in range(0, len(texts), 8):
            rows = [example.text for example in texts[first : first + 8]]
            batch = tokenizer(rows, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
            logits.append(model.eval()(**batch).logits.double().numpy())
    return np.concatenate(logits)


@pytest.mark.weights
@pytest.mark.parametrize("key", ["minilm", "bert-tiny"])
def test_every_row_gets_the_same_prediction_in_transformers(key: str, tmp_path: Path) -> None:
    """Logits differ by what float32 makes of them: measured on transformers beside itself in float64, times SPREAD.

    The control is the same folder with another tokeniser, as a contradiction in its files would make one.
    """
    for name in (key, "hutto2014"):
        if not is_cached(name):
            pytest.skip(f"{name} is not in the cache: sora-ref fetch {name}")
    keys = {
        "model.path": key,
        "model.head": "cls",
        "model.max_length": LENGTH,
        "task.name": "movies",
        "task.limit": 128,
    }
    run_once(tmp_path / "run", {**keys, "train.epochs": 1, "train.lr": 1e-3})
    merged = tmp_path / "merged"
    write_merged(load_trained(tmp_path / "run"), merged)
    texts = load_task("movies", seed=0).splits["test"][:ROWS]
    mine, single = ours(merged, texts), theirs(merged, texts, torch.float32)
    double = theirs(merged, texts, torch.float64)
    bound = SPREAD * float(np.abs(single - double).max())
    assert 0 < np.abs(mine - single).max() <= bound
    assert (mine.argmax(axis=1) == single.argmax(axis=1)).all()
    margins = [logits[:, 1] - logits[:, 0] for logits in (mine, single, double)]
    middle = float(np.median(margins[2]))  # a bias that would give each class half of the rows
    clear = np.abs(margins[2] - middle) > 2 * bound
    assert clear.sum() > 0.9 * len(texts)
    assert ((margins[0] > middle) == (margins[1] > middle))[clear].all()
    other = theirs(merged, texts, torch.float32, do_lower_case=False)
    assert np.abs(mine - other).max() > 100 * bound
    assert np.abs(mine).max() > 100 * bound
