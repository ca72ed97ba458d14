#!/usr/bin/env bash
# One tokenizer.json, two lengths: the library it belongs to obeys its truncation and padding, transformers does not.
#
# Guess:    AutoTokenizer wraps tokenizers, so the same file gives the same ids.
# Happens:  tokenizers 0.23.3 cuts and pads as the file says, without being asked; AutoTokenizer of transformers 5.23.0
#           drops both.  A published sentence encoder whose file says 128 is cut there in one and not in the other.
# Seen:     2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat > "$work/show.py" <<'PY'
import sys
import tempfile

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig

words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film"])}
made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
made.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
made.enable_truncation(6)
made.enable_padding(length=8)
with tempfile.TemporaryDirectory() as folder:
    made.save(f"{folder}/tokenizer.json")
    BertConfig().save_pretrained(folder)
    plain, auto = Tokenizer.from_file(f"{folder}/tokenizer.json"), AutoTokenizer.from_pretrained(folder)
    counts = [[len(plain.encode(text).ids), len(auto(text).input_ids)] for text in ("a film", "a film " * 10)]
print(f"tokenizers {tokenizers.__version__} and transformers {transformers.__version__} on one tokenizer.json that cuts")
print(f"at 6 and pads to 8: ids of a short text {counts[0]}, of a long one {counts[1]}")
sys.exit(0 if counts == [[8, 4], [8, 22]] else "expected [8, 4] and [8, 22]: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
