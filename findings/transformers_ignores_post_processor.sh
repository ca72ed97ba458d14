#!/usr/bin/env bash
# AutoTokenizer takes the words of a BERT's tokenizer.json and nothing else: not its normalizer, not its post_processor.
#
# Guess:    tokenizer.json is the whole tokenizer; one that adds no special tokens and keeps capitals does so everywhere.
# Happens:  AutoTokenizer of transformers 5.23.0 builds BERT's own normalizer and post_processor around the vocabulary:
#           it lowers "A" and adds [CLS] and [SEP], while tokenizers 0.23.3 does what the file says.
# Seen:     2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cat > "$work/show.py" <<'PY'
import json
import sys
import tempfile
from pathlib import Path

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig

words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film"])}
made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
made.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    BertConfig().save_pretrained(folder)
    text = json.loads(made.to_str())
    text["post_processor"] = text["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(text))
    plain = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("A film").ids
    auto = AutoTokenizer.from_pretrained(folder)("A film").input_ids
print(f"transformers {transformers.__version__}: tokenizer.json of a BERT without normalizer and post_processor:")
print(f"tokenizers gives {plain}, AutoTokenizer {auto}")
sys.exit(0 if (plain, auto) == ([1, 6], [2, 5, 6, 3]) else "expected [1, 6] and [2, 5, 6, 3]: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
