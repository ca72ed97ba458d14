"""A museum of mistakes: wrong implementations of SoRA, each one small change away from a right one.

They show that the kit tells them apart: every one is refused, and for the clause that is there for it.
"""

from sora_ref.conformance.museum.collection import Mistake
from sora_ref.conformance.museum.right import RIGHT, PlainAdamSoRA
from sora_ref.conformance.museum.rooms import MISTAKES
from sora_ref.conformance.museum.visit import Verdict, last_line, table, visit, visit_all

__all__ = [
    "MISTAKES",
    "RIGHT",
    "Mistake",
    "PlainAdamSoRA",
    "Verdict",
    "last_line",
    "table",
    "visit",
    "visit_all",
]
