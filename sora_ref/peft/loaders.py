"""The Python that goes into shipped folders: constants, which no name and no label ever becomes part of.

What differs from folder to folder (the base model, labels, the longest input) is read from the JSON beside them.
"""

from __future__ import annotations

from sora_ref.peft.format import HEAD_FILE, LABELS_FILE

_PEFT = """\
    def __init__(self, base=None):
        config = PeftConfig.from_pretrained(FOLDER)
        self.base = base or config.base_model_name_or_path
        self.which = {"revision": config.revision} if config.revision and not base else {}
"""

_BESIDE = f"""\
        with safe_open(FOLDER / "{HEAD_FILE}", framework="pt") as file:
            self.about = file.metadata()
            self.head = {{name: file.get_tensor(name) for name in file.keys()}}

    @torch.no_grad()
    def logits(self, batch):
        \"\"\"batch (input_ids, attention_mask, ... of shape (n, length)) -> (n, outputs)\"\"\"
        out = self.model(**batch)
        hidden = out.last_hidden_state
        head = {{name: tensor.to(hidden) for name, tensor in self.head.items()}}
        dense, out_layer = self.about.get("dense"), self.about["out"]
        if self.about["pooling"] == "mean":
            mask = batch["attention_mask"][:, :, None].to(hidden)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        elif f"{{dense}}.weight" in head:
            pooled = linear(hidden[:, 0], head[f"{{dense}}.weight"], head[f"{{dense}}.bias"])
            pooled = getattr(torch, self.about["activation"])(pooled)
        else:
            pooled = out.pooler_output
        return linear(pooled, head[f"{{out_layer}}.weight"], head[f"{{out_layer}}.bias"])
"""

_INSIDE = """\

    @torch.no_grad()
    def logits(self, batch):
        \"\"\"batch (input_ids, attention_mask, ... of shape (n, length)) -> (n, outputs)\"\"\"
        return self.model(**batch).logits
"""

_LABELS = f'LABELS = json.loads((FOLDER / "{LABELS_FILE}").read_text(encoding="utf-8"))\n'

_PREDICT = '''
    @cached_property
    def tokenizer(self):
        return AutoTokenizer.from_pretrained(self.base, **self.which)

    def predict(self, texts, pairs=None):
        """Texts, with their second sentences where the task has pairs -> names of classes, or values (regression)."""
        batch = self.tokenizer(
            texts, pairs, padding=True, truncation=True, max_length=LABELS["max_length"], return_tensors="pt"
        )
        logits = self.logits(batch)
        if LABELS["problem_type"] == "regression":
            return logits[:, 0].tolist()
        return [LABELS["id2label"][str(row)] for row in logits.argmax(dim=1).tolist()]
'''


def _loader(about: str, use: str, imports: str, body: str) -> str:
    return f'''\
"""{about}

    {use}
    model.predict(["a fine film", "a dull one"])
"""

import json
from functools import cached_property
from pathlib import Path

{imports}

FOLDER = Path(__file__).resolve().parent
{_LABELS}

class Classifier:
    """The encoder with its trained head."""

{body}{_PREDICT}'''


_WITH_BASE = 'model = Classifier()  # or Classifier("path/to/the/base/model")'

# The adapter with its head in it: a whole sequence classifier.
PEFT_WHOLE = _loader(
    "Loads this folder: a sequence classifier with its LoRA adapter.  Needs torch, transformers and peft.",
    _WITH_BASE,
    """\
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer""",
    _PEFT
    + """\
        outputs = len(LABELS["id2label"])
        model = AutoModelForSequenceClassification.from_pretrained(self.base, num_labels=outputs, **self.which)
        self.model = PeftModel.from_pretrained(model, FOLDER).eval()
"""
    + _INSIDE,
)

# The adapter of the bare encoder, its head in a file beside it.
PEFT_BESIDE = _loader(
    "Loads this folder: a bare encoder, its LoRA adapter, and the trained head beside it.\n\n"
    "Needs torch, transformers, peft and safetensors.",
    _WITH_BASE,
    """\
import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from torch.nn.functional import linear
from transformers import AutoModel, AutoTokenizer""",
    _PEFT
    + """\
        encoder = AutoModel.from_pretrained(self.base, **self.which)
        self.model = PeftModel.from_pretrained(encoder, FOLDER).eval()
"""
    + _BESIDE,
)

# A merged encoder, its head in a file beside it.
TRANSFORMERS_BESIDE = _loader(
    "Loads this folder: an encoder with its adapters merged in, and the trained head beside it.\n\n"
    "Needs torch, transformers and safetensors.",
    "model = Classifier()",
    """\
import torch
from safetensors import safe_open
from torch.nn.functional import linear
from transformers import AutoModel, AutoTokenizer""",
    """\
    def __init__(self):
        self.base, self.which = FOLDER, {}
        self.model = AutoModel.from_pretrained(FOLDER).eval()
"""
    + _BESIDE,
)
