"""The set "numba": NumPy's forms, some of them replaced by compiled ones."""

from __future__ import annotations

from sora_ref.kernels import Kernels
from sora_ref.kernels.numpy.table import KERNELS as NUMPY

KERNELS = Kernels(
    training={**NUMPY.training},
    evaluation={**NUMPY.evaluation},
    fold=NUMPY.fold,
)
