"""The texts that go into an exported folder: its README, and the loader of an adapter with mean pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sora_ref.peft.format import HEAD_FILE, LOADER_FILE, Head, Layout

_USE: Mapping[Head, str] = {
    "cls": """\
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained("{base_model}", num_labels={outputs})
model = PeftModel.from_pretrained(base, ".").eval()  # "." is this folder

with torch.no_grad():
    logits = model(**batch).logits  # batch: input_ids, attention_mask, as the base model's tokenizer gives them
""",
    "mean": """\
from load_with_peft import Classifier  # run in this folder

model = Classifier()  # or Classifier("path/to/the/base/model")
logits = model.logits(batch)  # batch: input_ids, attention_mask, as the base model's tokenizer gives them
""",
}

_HEADS: Mapping[Head, str] = {
    "cls": "The classifier, and whatever else was trained in full, is inside the adapter (`modules_to_save`).",
    "mean": "The adapter belongs to the bare encoder. The head, a linear map of the mean of the hidden states\n"
    f"over the attention mask, is `{HEAD_FILE}`; PEFT does not know it, `{LOADER_FILE}` does.",
}

_LAYOUTS: Mapping[Layout, str] = {
    "compact": "each module has its own rank (`rank_pattern`, `alpha_pattern`); for PEFT and transformers",
    "uniform": "every module is padded with zeros to one rank; for servers that know one rank and one alpha",
}


def readme(
    *, base_model: str, head: Head, layout: Layout, outputs: int, ranks: Mapping[str, int], notes: Sequence[str]
) -> str:
    """README.md of an exported folder.  outputs: rows of the classifier.  ranks: components kept, by module."""
    rows = "\n".join(f"| `{module}` | {rank} |" for module, rank in ranks.items())
    extra = "".join(f"- {note}\n" for note in notes)
    return f"""\
# A LoRA adapter, trained with SoRA and pruned

- Base model: `{base_model}`
- Layout `{layout}`: {_LAYOUTS[layout]}
- Outputs: {outputs}
{extra}
The gates are folded into B; what is left is a plain LoRA. {_HEADS[head]}

```python
{_USE[head].format(base_model=base_model, outputs=outputs)}```

Components kept: {sum(ranks.values())} in {len(ranks)} modules. Modules at rank 0 carry no adapter.

| module | rank |
|---|---|
{rows}
"""


LOADER = f'''\
"""Loads this folder: a bare BERT encoder, its LoRA adapter (PEFT), mean pooling, and a linear head.

    model = Classifier()                       # or Classifier("path/to/the/base/model")
    model.predict(["a fine film", "a dull one"])

Needs torch, transformers, peft and safetensors.
"""

from functools import cached_property
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from transformers import AutoModel, AutoTokenizer

FOLDER = Path(__file__).resolve().parent


class Classifier:
    """logits = mean over the attention mask of the encoder's hidden states, times weight^T, plus bias."""

    def __init__(self, base=None):
        self.base = base or PeftConfig.from_pretrained(FOLDER).base_model_name_or_path
        self.encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(self.base), FOLDER).eval()
        with safe_open(FOLDER / "{HEAD_FILE}", framework="pt") as head:
            self.weight, self.bias = head.get_tensor("classifier.weight"), head.get_tensor("classifier.bias")
            self.max_length = int(head.metadata().get("max_length", 0)) or None

    @cached_property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.base)

    @torch.no_grad()
    def logits(self, batch):
        """batch (input_ids, attention_mask, ... of shape (n, length)) -> (n, outputs)"""
        hidden = self.encoder(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None].to(hidden)
        pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return pooled @ self.weight.to(hidden).T + self.bias.to(hidden)

    def predict(self, texts, pairs=None):
        """Texts, with their second sentences where the task has pairs -> class numbers, or values if outputs is 1."""
        batch = self.tokenizer(
            texts, pairs, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        logits = self.logits(batch)
        return (logits[:, 0] if logits.shape[1] == 1 else logits.argmax(dim=1)).tolist()
'''
