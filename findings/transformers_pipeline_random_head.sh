#!/usr/bin/env bash
# The text-classification pipeline classifies with a bare encoder: by a head that it draws at random.
#
# Guess:    config.json says architectures ["BertModel"], a model without classes, so the pipeline refuses.
# Happens:  transformers 5.23.0 puts a new classifier on it and answers with labels and scores, which are the seed's; a
#           report at loading time is all that says so.
# Seen:     2026-11-28, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cat > "$work/show.py" <<'PY'
import sys
import tempfile

import torch
import transformers
from transformers import BertConfig, BertModel, BertTokenizer, pipeline

transformers.logging.set_verbosity_error()
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"]
sizes = dict(vocab_size=7, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
with tempfile.TemporaryDirectory() as folder:
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes)).save_pretrained(folder)  # config.json says architectures: ["BertModel"]
    with open(f"{folder}/vocab.txt", "w") as file:
        file.write("\n".join(words))
    BertTokenizer(vocab=f"{folder}/vocab.txt").save_pretrained(folder)

    def score(seed):
        torch.manual_seed(seed)
        return pipeline("text-classification", model=folder, device="cpu")("a film")[0]

    found = [score(seed) for seed in (1, 2, 1)]
print(f"transformers {transformers.__version__}: text-classification on a bare encoder, seeds 1, 2, 1:")
print([(one["label"], round(one["score"], 5)) for one in found])
random = found[0] == found[2] != found[1]
sys.exit(0 if random else "expected a result that is the seed's: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
