"""Kernels are compiled before the work begins, and that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from tqdm import tqdm

from sora_ref import Rates, initial_state
from sora_ref.errors import SoRAError
from sora_ref.run.evaluate import predict_logits
from sora_ref.run.gradients import loss_and_gradients
from sora_ref.run.initial import initial_params
from sora_ref.run.interrupt import signals_held
from sora_ref.run.setup import Params, Setup
from sora_ref.run.text import Encoded

_RATES = Rates(lr=1e-3, gate_lr=1e-3, strength=1e-3)  # none is 0, which would leave something out


def warm_up(setup: Setup, trained: Params | None = None, *, quiet: bool) -> None:
    """Have the kernels compiled that this work calls, by a little of it, of which nothing is kept.

    trained: the parameters of an evaluation; without them it is a training, whose step and evaluation are made here.
    Nothing happens where the kernels need no compiling, or where the work is not in float32.  What was compiled before
    comes from the cache.  A progress bar shows where something is compiled, unless `quiet`.
    Raises SoRAError where the kernels cannot be had.
    """
    _, compiling = setup.ops, setup.kernels.compiling
    if compiling is None or setup.config.dtype != "float32":
        return
    # The compiler loses an exception that a signal raises within it.  A fault of the model is said by the work itself.
    with signals_held() as let_go, _bar(quiet, let_go) as tell, compiling(tell), suppress(SoRAError):
        if trained is None:
            trained = initial_params(setup)
            _step(setup, trained)
        predict_logits(setup, trained, _rows(setup))


def _step(setup: Setup, params: Params) -> None:
    """A training step from these parameters."""
    recipe = setup.config.recipe(setup.model.architecture.decayed)
    _, grads = loss_and_gradients(setup, _rows(setup), params, np.arange(2), 1, map)
    with np.errstate(over="ignore", invalid="ignore"):
        setup.method.step(initial_state(params), grads, _RATES, recipe, setup.ops)


def _rows(setup: Setup) -> Encoded:
    """Two sequences of different lengths, each of token 0 alone; a tokeniser's own tokens are more than that."""
    lengths = np.asarray([3, 2])
    ids = tuple(np.zeros(length, np.int64) for length in lengths.tolist())
    labels = np.zeros(2, np.int64 if setup.labels.kind == "classification" else np.float64)
    return Encoded(ids, ids, lengths, labels)


@contextmanager
def _bar(quiet: bool, before_each: Callable[[], None]) -> Iterator[Callable[[str], None]]:
    """What shows the kernels that it is told of; a bar appears with the first one, and goes at the end."""
    bars: list[tqdm[None]] = []

    def tell(name: str) -> None:
        before_each()
        if not bars:
            bars.append(tqdm(desc="compiling kernels, once", unit=" kernels", disable=quiet, leave=False))
        bars[0].set_postfix_str(name, refresh=False)
        bars[0].update()

    try:
        yield tell
    finally:
        for bar in bars:
            bar.close()
