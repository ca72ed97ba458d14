#!/usr/bin/env bash
# safetensors.numpy.save writes the memory of an array, not its values: a column-major array comes back scrambled.
#
# Guess:    what is saved is what is loaded; an array's memory layout is NumPy's own affair, as with numpy.save.
# Happens:  safetensors 0.8.0 saves B[:, keep] * g[keep], which NumPy lays out by columns, without a word, and gives
#           back other numbers in the same shape.  0.7.0 gave back the values.
# Seen:     2026-11-28, Python 3.11, NumPy 2.4.6.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/show.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

B, g = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 0, 2], np.float32)
keep = np.flatnonzero(g)
kept = B[:, keep] * g[keep]
back = load(save({"B": kept}))["B"]
same = np.array_equal(kept, back)
print(f"safetensors {safetensors.__version__}: saved {kept.tolist()}, loaded {back.tolist()}")
sys.exit(0 if same is (sys.argv[1] == "same") else f"expected {sys.argv[1]}: this has changed")
PY
for pair in 0.7.0:same 0.8.0:other; do
  python3 -m venv "$work/${pair%:*}"
  "$work/${pair%:*}/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 "safetensors==${pair%:*}"
  "$work/${pair%:*}/bin/python" "$work/show.py" "${pair#*:}"
done
