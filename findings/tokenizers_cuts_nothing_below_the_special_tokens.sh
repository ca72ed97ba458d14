#!/usr/bin/env bash
# Truncation to fewer tokens than the special ones is no truncation: the whole text comes back, without a word.
#
# Guess:    a text that is cut at n tokens has at most n, or cutting it at a number that cannot be is an error.
# Happens:  [CLS] A [SEP] B [SEP] has 3 special tokens.  tokenizers 0.23.3 cuts a pair of 30 words at 4 to 4 tokens and at
#           3 to 3, but at 2 it gives all 33; AutoTokenizer of transformers 5.23.0 with truncation=True does the same.
# Seen:     2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat > "$work/show.py" <<'PY'
import sys
import tempfile

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig

words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"])}
made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
made.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
first, second, counts = "a " * 20, "a " * 10, {}
with tempfile.TemporaryDirectory() as folder:
    made.save(f"{folder}/tokenizer.json")
    BertConfig().save_pretrained(folder)
    auto = AutoTokenizer.from_pretrained(folder)
for most in (4, 3, 2):
    made.enable_truncation(most)
    theirs = auto(first, second, truncation=True, max_length=most).input_ids
    counts[most] = (len(made.encode(first, second).ids), len(theirs))
print(f"tokenizers {tokenizers.__version__} and transformers {transformers.__version__}, a pair of 30 words:")
for most, (plain, wrapped) in counts.items():
    print(f"cut at {most}: {plain} tokens, and {wrapped} by AutoTokenizer")
expected = {4: (4, 4), 3: (3, 3), 2: (33, 33)}
sys.exit(0 if counts == expected else f"expected {expected}: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
