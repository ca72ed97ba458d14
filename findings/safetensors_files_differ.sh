#!/usr/bin/env bash
# Saving the same tensors with the same notes gives another file every time.
#
# Guess:    a format with a digestible header is written the same for the same contents, so digests tell runs apart.
# Happens:  safetensors 0.8.0 writes __metadata__ in the order of a hash table with a seed of its own: eight files of one
#           length, all different.  Without notes, or with one, the bytes are the same.
# Seen:     2026-11-28, Python 3.11, NumPy 2.4.6.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 safetensors==0.8.0
cat > "$work/show.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load, save

x, notes = {"a": np.zeros(1, np.float32)}, {letter: letter for letter in "abcdefgh"}
files = {save(x, notes) for _ in range(8)}
same = all(np.array_equal(load(data)["a"], x["a"]) for data in files)
print(f"safetensors {safetensors.__version__}: one array with eight notes, saved 8 times: {len(files)} different files,")
print(f"of {len({len(data) for data in files})} length; without notes {len({save(x) for _ in range(8)})}")
sys.exit(0 if same and len(files) > 1 else "expected different files: this has changed")
PY
"$work/venv/bin/python" -W ignore "$work/show.py" 2> "$work/stderr" || { status=$?; tail -n 3 "$work/stderr" >&2; exit "$status"; }
