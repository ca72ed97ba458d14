"""The golden vectors: the checks as files, for implementations in any language, and what makes and reads those files.

| module | holds |
|---|---|
| `reader`, `run` | the cases as they are read; the cases tried on an implementation in Python |
| `cases`, `arguments`, `values`, `intervals` | which cases there are; their arguments; what has to come of them |
| `vector_file` | how cases and tensors are written, to the last byte |
| `__main__` | `python -m sora_ref.conformance.golden`, which writes or checks the files |
"""

from sora_ref.conformance.golden.reader import Case, load_cases
from sora_ref.conformance.golden.run import Verdict, run_case, run_vectors

__all__ = ["Case", "Verdict", "load_cases", "run_case", "run_vectors"]
