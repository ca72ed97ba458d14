"""A museum of mistakes: wrong implementations of SoRA, each one small change away from a right one.

They show that the kit tells them apart: every one is refused, and for the clause that is there for it.
"""

from sora_ref.conformance.museum.baselines import BASELINES, PlainAdamSoRA
from sora_ref.conformance.museum.catalogue import MISTAKES
from sora_ref.conformance.museum.mistake import Mistake
from sora_ref.conformance.museum.run import Verdict, last_line, run_all, run_mistake, table

__all__ = [
    "MISTAKES",
    "BASELINES",
    "Mistake",
    "PlainAdamSoRA",
    "Verdict",
    "last_line",
    "table",
    "run_mistake",
    "run_all",
]
