#!/usr/bin/env bash
# A key of rank_pattern is an expression in one PEFT and a plain name in another.
#
# Guess:    rank_pattern takes regular expressions, as its documentation says: "^dense" and "den.e" match the layer dense.
# Happens:  peft 0.14.0 looks for them behind a dot alone, and else takes the key for the name itself: a top-level layer
#           is matched by "dense" and by neither expression, which is passed over in silence.  peft 0.21.2 matches all
#           three.  Only a plain full name means the same to both.
# Seen:     2026-11-28, torch 2.13.0, transformers 4.46.3 and 5.23.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/show.py" <<'PY'
import sys

import peft
import torch
from peft import LoraConfig, get_peft_model


def rank(key):
    net = torch.nn.Sequential()
    net.add_module("dense", torch.nn.Linear(4, 4))
    net.add_module("out", torch.nn.Linear(4, 4))
    config = LoraConfig(r=8, target_modules=["dense", "out"], rank_pattern={key: 3})
    return get_peft_model(net, config).base_model.model.dense.r["default"]


found = {key: rank(key) for key in ("dense", "^dense", "den.e")}
print(f"peft {peft.__version__}: rank of the layer `dense` by rank_pattern key: {found}")
expected = {"dense": 3, "^dense": 8, "den.e": 8} if sys.argv[1] == "old" else dict.fromkeys(found, 3)
sys.exit(0 if found == expected else f"expected {expected}: this has changed")
PY
for set in "old peft==0.14.0 transformers==4.46.3" "new peft==0.21.2 transformers==5.23.0"; do
  read -r which peft transformers <<< "$set"
  python3 -m venv "$work/$which"
  "$work/$which/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0
  "$work/$which/bin/pip" install --quiet --disable-pip-version-check "$transformers" "$peft"
  "$work/$which/bin/python" -W ignore "$work/show.py" "$which" 2> "$work/stderr" || {
    status=$?
    tail -n 3 "$work/stderr" >&2
    exit "$status"
  }
done
