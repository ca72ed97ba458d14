#!/usr/bin/env bash
# A pair whose second text is empty is a pair in a batch and a single text alone: two encodings of one example.
#
# Guess:    tokenizer(a, b) gives the ids that tokenizer([a], [b]) gives for its only row, whatever b is.
# Happens:  AutoTokenizer of transformers 5.23.0 asks whether b is true: with b = "" the call for one text drops the
#           second [SEP] that the batch has.  An example that is scored alone is not the one of training in batches.
# Seen:     2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat > "$work/show.py" <<'PY'
import sys
import tempfile
from pathlib import Path

import transformers
from transformers import BertTokenizer

with tempfile.TemporaryDirectory() as folder:
    vocabulary = Path(folder, "vocab.txt")
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"]) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder)
alone = {text: tokenizer("a film", text).input_ids for text in ("a", "")}
batched = {text: tokenizer(["a film"], [text]).input_ids[0] for text in ("a", "")}
print(f"transformers {transformers.__version__}: 'a film' with a second text, alone and as a batch of one:")
for text in alone:
    print(f"second text {text!r}: {alone[text]} and {batched[text]}")
seen = (alone["a"] == batched["a"], alone[""], batched[""])
sys.exit(0 if seen == (True, [2, 5, 6, 3], [2, 5, 6, 3, 3]) else "expected another [SEP] in the batch: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
