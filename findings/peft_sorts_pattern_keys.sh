#!/usr/bin/env bash
# Saving and loading an adapter changes its scale where two keys of a pattern match one layer.
#
# Guess:    the first key that matches holds, and an adapter that is saved comes back as it was.
# Happens:  peft 0.21.2 sorts the keys of adapter_config.json when it saves.  "self.query" stood before "query" and held;
#           after loading "query" stands first and holds: scale 3.0 becomes 4.0, without a word.
# Seen:     2026-11-28, torch 2.13.0.
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
from peft import LoraConfig, PeftModel, get_peft_model


def net():
    torch.manual_seed(0)
    inner = torch.nn.Sequential()
    inner.add_module("query", torch.nn.Linear(4, 4))
    outer = torch.nn.Sequential()
    outer.add_module("self", inner)
    return outer


def scale(model):
    return next(module.scaling["default"] for module in model.modules() if hasattr(module, "lora_A"))


config = LoraConfig(r=2, lora_alpha=2, target_modules=["query"], alpha_pattern={"self.query": 6, "query": 8})
with tempfile.TemporaryDirectory() as folder:
    model = get_peft_model(net(), config)
    made = scale(model)
    model.save_pretrained(folder)
    again = scale(PeftModel.from_pretrained(net(), folder))
print(f"peft {peft.__version__}: scale of self.query {made} when it was made, {again} after saving and loading")
sys.exit(0 if (made, again) == (3.0, 4.0) else "expected 3.0 and 4.0: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
