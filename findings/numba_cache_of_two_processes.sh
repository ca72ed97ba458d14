#!/usr/bin/env bash
# Two processes that cache a function for different types at the same time leave a cache that gives wrong numbers.
#
# Guess:    `@njit(cache=True)` may be used by several processes at once; at worst a type is compiled again.
# Happens:  numba 0.68.1 reads the index of a function, adds its own entry and writes it back, without a lock; both
#           processes choose the name f.1.nbc, and the index of one is left beside the machine code of the other.  Every
#           later process takes that code for the wrong type, and does not check: double(1.5) is 2, and with arrays the
#           call is a TypeError.  It lasts until the cache is removed.
# Seen:     2026-11-28, numba 0.68.1, numpy 2.4.6.  The delays below make sure of the order, which twelve processes
#           that start at once find in one of four attempts without any.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cat > "$work/doubled.py" <<'PY'
from numba import njit


@njit(cache=True)
def double(x):
    return x + x
PY
cat > "$work/cache.py" <<'PY'
import sys
import time

from doubled import double
from numba.core.caching import IndexDataCacheFile

read, write = float(sys.argv[2]), float(sys.argv[3])  # seconds after the start, of writing the index and the code
start, index, data = float(sys.argv[4]), IndexDataCacheFile._save_index, IndexDataCacheFile._save_data


def slow_index(self, overloads):
    time.sleep(max(start + read - time.time(), 0))
    index(self, overloads)


def slow_data(self, name, code):
    time.sleep(max(start + write - time.time(), 0))
    data(self, name, code)


IndexDataCacheFile._save_index, IndexDataCacheFile._save_data = slow_index, slow_data
double(eval(sys.argv[1]))
PY
cd "$work"
now=$(date +%s)
venv/bin/python cache.py 1 10 14 "$now" &
venv/bin/python cache.py 1.0 12 13 "$now" &
wait
cat > "$work/show.py" <<'PY'
import sys

import numba
from doubled import double

print(f"numba {numba.__version__}: double(1.5) is {double(1.5)} in a process after the two")
sys.exit(0 if double(1.5) != 3 else "expected another number than 3: this has changed")
PY
venv/bin/python show.py
