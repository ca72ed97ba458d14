#!/usr/bin/env bash
# rank_pattern changes the scale of a layer, not its rank alone.
#
# Guess:    r 16 with lora_alpha 16 is scale 1, and a layer that rank_pattern gives 3 of these components keeps scale 1:
#           cutting components does not strengthen those that stay.
# Happens:  peft 0.21.2 divides lora_alpha by the layer's own rank: 5.33, or 9.24 under rsLoRA.  alpha_pattern has to
#           say the scale again for each such layer.
# Seen:     2026-11-28, torch 2.13.0.
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
from peft import LoraConfig, get_peft_model

scales = {}
for rslora in (False, True):
    config = LoraConfig(
        r=16, lora_alpha=16, target_modules=["0", "1"], rank_pattern={"1": 3}, use_rslora=rslora
    )
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)), config)
    layers = model.base_model.model
    scales[rslora] = [round(layer.scaling["default"], 2) for layer in (layers[0], layers[1])]
print(f"peft {peft.__version__}: r 16 and alpha 16, one layer cut to rank 3 by rank_pattern: scales {scales[False]},")
print(f"with use_rslora {scales[True]}")
sys.exit(0 if scales == {False: [1.0, 5.33], True: [4.0, 9.24]} else "expected 1, 5.33 and 4, 9.24: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
