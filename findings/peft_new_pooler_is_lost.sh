#!/usr/bin/env bash
# A sequence classifier on a BERT without a pooler loses the trained or drawn pooler when PEFT saves it.
#
# Guess:    save_pretrained keeps every weight that was not in the base checkpoint; the SEQ_CLS adapter says so of its
#           classifier.
# Happens:  peft 0.21.2 saves the classifier alone.  BERT's pooler, as new as the classifier where the checkpoint comes
#           from masked-language modelling, is drawn again at every load: other logits, and PEFT does not say a word.
#           modules_to_save=["pooler", "classifier"] keeps it.
# Seen:     2026-11-28, torch 2.13.0, transformers 5.23.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 peft==0.21.2
cat > "$work/show.py" <<'PY'
import sys
import tempfile

import peft
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

transformers.logging.set_verbosity_error()
sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
ids = torch.arange(4, 14)[None]
with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(f"{folder}/base")  # as published: an encoder, no pooler

    def base(seed):
        torch.manual_seed(seed)
        return BertForSequenceClassification.from_pretrained(f"{folder}/base", num_labels=2)

    model = get_peft_model(base(1), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])).eval()
    before = model(input_ids=ids).logits.detach()
    model.save_pretrained(f"{folder}/adapter")
    after = [PeftModel.from_pretrained(base(seed), f"{folder}/adapter").eval()(input_ids=ids).logits.detach() for seed in (1, 2)]
moved = [float((logits - before).abs().max()) for logits in after]
print(f"peft {peft.__version__}, transformers {transformers.__version__}: logits move by {moved[0]:.1e} where the new")
print(f"pooler is drawn from the seed of before, and by {moved[1]:.1e} from another")
sys.exit(0 if moved[0] < 1e-6 < 1e-3 < moved[1] else "expected 0 and a visible change: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
