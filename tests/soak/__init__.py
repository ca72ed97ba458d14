"""`make soak`: sora_ref under kills, crashes, damaged files, full disks and second writers, until the time is up.

Every case has a seed and can be run again by itself; docs/soak.md says how.
"""

import os
import sys
from pathlib import Path

# Before NumPy is imported: a process that is forked must have one thread.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))  # tiny_run, as the tests have it
