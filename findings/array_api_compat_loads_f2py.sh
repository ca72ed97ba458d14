#!/usr/bin/env bash
# Importing array_api_compat's NumPy namespace loads NumPy's Fortran compiler front end and its testing tools.
#
# Guess:    `import array_api_compat.numpy` after `import numpy` is a thin layer of names, and costs next to nothing.
# Happens:  array-api-compat 1.16.0 asks NumPy for every name that it lists, by `hasattr`; NumPy's modules are loaded at
#           that, numpy.f2py, numpy.testing and numpy.typing among them, with unittest behind them.
# Seen:     2026-11-28, array-api-compat 1.16.0, numpy 2.4.6: NumPy loads 173 modules, and the layer 183 more.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check array-api-compat==1.16.0 numpy==2.4.6
cat > "$work/show.py" <<'PY'
import sys

import numpy

of_numpy = set(sys.modules)
import array_api_compat.numpy

more = set(sys.modules) - of_numpy
loaded = [name for name in ("numpy.f2py", "numpy.testing", "unittest") if name in more]
print(f"numpy {numpy.__version__}: {len(of_numpy)} modules; the layer loads {len(more)} more, {', '.join(loaded)} among them")
sys.exit(0 if loaded[:2] == ["numpy.f2py", "numpy.testing"] else "expected both to be loaded: this has changed")
PY
"$work/venv/bin/python" "$work/show.py"
