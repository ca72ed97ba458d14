"""SoRA, Sparse Low-rank Adaptation (Ding et al., EMNLP 2023): a verified specification that runs.

The specification is this package's own modules; what is built on it lives in `sora_ref.models`, `sora_ref.run` and
`sora_ref.peft`.  Importing this package is quick; the first name that is used loads the specification, with NumPy and
the array-compat layer, and nothing else.

    >>> import numpy as np
    >>> import sora_ref as sr
    >>> adapter = sr.SoRA(A=np.ones((2, 4)), g=np.array([0.5, 0.0]), B=np.ones((3, 2)), s=2.0)
    >>> y, cache = sr.sora_linear_forward(np.ones((1, 4)), np.eye(3, 4), None, adapter)
    >>> y
    array([[5., 5., 5.]])

Two namespaces: `sr.schedules` for learning rates and strengths over time, `sr.bounds` for rounding.
"""

import importlib
import importlib.util
import typing

from sora_ref.version import SPEC_VERSION as SPEC_VERSION
from sora_ref.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from sora_ref.public import *  # noqa: F403
    from sora_ref.public import __all__ as __all__
else:  # for a type checker would take a module with a `__getattr__` to have any name whatever

    def __getattr__(name: str) -> object:
        """A name of `sora_ref.public`, or a module of this package, when it is first asked for."""
        if (
            name.isidentifier()
            and not name.startswith("__")
            and importlib.util.find_spec(f"{__name__}.{name}") is not None
        ):
            return importlib.import_module(f"{__name__}.{name}")
        public = importlib.import_module(f"{__name__}.public")
        if name not in ("__all__", *public.__all__):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals().setdefault(name, getattr(public, name))

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
