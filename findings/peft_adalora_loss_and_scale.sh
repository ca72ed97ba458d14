#!/usr/bin/env bash
# AdaLoRA reports a loss that is no cross-entropy even in evaluation, and its scale has an epsilon that LoRA's has not.
#
# Guess:    under model.eval() and no_grad, `loss` is that of the labels; the scale is lora_alpha/r as in LoRA.
# Happens:  peft 0.21.2 adds the orthogonality regulariser to `loss` in evaluation too, and scales by
#           lora_alpha/(r + 1e-5): a validation loss cannot be compared with LoRA's, nor a converted adapter bit by bit.
# Seen:     2026-11-28, torch 2.13.0, transformers 5.23.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 peft==0.21.2
cat > "$work/show.py" <<'PY'
import sys

import peft
import torch
import transformers
from peft import AdaLoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
base = BertForSequenceClassification(BertConfig(**sizes, num_labels=2))
config = AdaLoraConfig(task_type="SEQ_CLS", init_r=4, target_r=2, lora_alpha=16, total_step=10, target_modules=["query"])
model = get_peft_model(base, config).eval()
labels = torch.tensor([1])
with torch.no_grad():
    out = model(input_ids=torch.arange(4, 14)[None], labels=labels)
entropy = torch.nn.functional.cross_entropy(out.logits, labels)
layer = next(m for m in model.modules() if hasattr(m, "lora_E"))
with torch.no_grad():
    layer.lora_E["default"].fill_(1.0)
    scale = layer.get_delta_weight("default") / (layer.lora_B["default"] @ layer.lora_A["default"])
print(f"peft {peft.__version__}: model.eval(), no grad: loss {out.loss:.4f}, cross-entropy of its logits {entropy:.4f};")
print(f"lora_alpha 16 over rank 4: delta W is {float(scale.median()):.6f} B A, 16 over 4.00001")
apart = float(out.loss - entropy)
exact = abs(float(scale.median()) - 16 / (4 + 1e-5)) < 4e-6 < abs(float(scale.median()) - 4)
sys.exit(0 if apart > 0.01 and exact else "expected a loss above the cross-entropy and 16/(4 + 1e-5): this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
