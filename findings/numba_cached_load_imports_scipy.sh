#!/usr/bin/env bash
# A compiled function that adds two numbers loads SciPy's linear algebra when it comes from the cache.
#
# Guess:    what `@njit(cache=True)` has on disk is machine code; loading it loads that.
# Happens:  numba 0.68.1, before it reads a function from its cache, registers all that its compiler knows of Python and
#           NumPy, and with it imports scipy.linalg where SciPy is installed, whatever the function does.
# Seen:     2026-11-28, numba 0.68.1, numpy 2.4.6, scipy 1.17.1: the second process finds the function in the cache, and
#           loads 207 modules for it, scipy.linalg among them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6 scipy==1.17.1
cat > "$work/added.py" <<'PY'
from numba import njit


@njit(cache=True)
def add(x, y):
    return x + y
PY
cat > "$work/show.py" <<'PY'
import sys

from added import add

before = set(sys.modules)
add(1.0, 2.0)
more, hits = set(sys.modules) - before, sum(add.stats.cache_hits.values())
print(f"cache hits {hits}; modules loaded by the call {len(more)}; scipy.linalg among them: {'scipy.linalg' in more}")
if hits:
    sys.exit(0 if "scipy.linalg" in more else "expected scipy.linalg to be loaded: this has changed")
PY
cd "$work"
venv/bin/python show.py
venv/bin/python show.py
