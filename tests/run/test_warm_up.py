"""Kernels are compiled before the work, shown while they are, and the work then finds them all."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba_here import MISSING
from tiny_run import change_weights, make_config, make_keys, run_once

from sora_ref.errors import SoRAError
from sora_ref.kernels.numpy.table import KERNELS
from sora_ref.run.data import Labels
from sora_ref.run.initial import initial_params
from sora_ref.run.setup import Setup, make_setup
from sora_ref.run.warm_up import warm_up

Keys = dict[str, Any]
KINDS = {"classification": ("accuracy",), "regression": ("pearson",)}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("own"))


def setup_of(keys: Keys, kind: Any = "classification", **changes: Any) -> Setup:
    labels = ("bad", "good") if kind == "classification" else ()
    return make_setup(make_config(keys, **changes), Labels(kind, labels, KINDS[kind]))


def use(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Runs take kernels that say, in every context, that these are compiled."""

    @contextmanager
    def compiling(tell: Callable[[str], None]) -> Iterator[None]:
        for name in names:
            tell(name)
        yield

    monkeypatch.setattr("sora_ref.kernels.get", lambda *_: replace(KERNELS, compiling=compiling))


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_a_run_compiles_or_loads_nothing_that_the_warm_up_has_not(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    from sora_ref.kernels.numba.kept import Kept

    changes: Keys = {"kernels": "numba", "adapter__dropout": dropout}
    real, later = Kept.load_overload, list[str]()

    def noted(self: Any, signature: Any, context: Any) -> Any:
        later.append(f"{self._name} {signature}")
        return real(self, signature, context)

    warm_up(setup_of(keys, **changes), quiet=True)
    monkeypatch.setattr(Kept, "load_overload", noted)
    monkeypatch.setattr("sora_ref.run.training.warm_up", lambda *_, **__: None)
    run_once(tmp_path / "run", keys, **changes, train__max_steps=3)
    assert later == []


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_all_that_a_warm_up_compiles_is_on_disk_afterwards(keys: Keys) -> None:
    """Numba keeps no code with the addresses of a process in it, as large constant arrays would give it."""
    from numba.core.dispatcher import Dispatcher
    from numba.core.registry import cpu_target

    from sora_ref.kernels.numba.kept import Kept

    warm_up(setup_of(keys, kernels="numba"), quiet=True)
    modules = [module for name, module in sys.modules.items() if name.startswith("sora_ref.kernels.numba.")]
    made = {value for module in modules for value in vars(module).values() if isinstance(value, Dispatcher)}
    codegen = cpu_target.target_context.codegen()
    kept = [kernel for kernel in made if isinstance(kernel._cache, Kept)]
    found = [kernel._cache.path(types, codegen) for kernel in kept for types in kernel.overloads]
    assert len(found) > 5
    assert [path.name for path in found if not path.is_file()] == []


def test_kernels_that_need_no_compiling_and_work_in_float64_are_not_warmed_up(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sora_ref.run.warm_up.predict_logits", lambda *_: pytest.fail("work is done"))
    warm_up(setup_of(keys), quiet=True)
    use(monkeypatch)
    warm_up(setup_of(keys, dtype="float64"), quiet=True)


@pytest.mark.parametrize(("names", "quiet"), [(("gelu", "norm"), False), (("gelu",), True), ((), False)])
def test_what_is_compiled_is_shown_and_nothing_where_nothing_is(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], names: tuple[str, ...], quiet: bool
) -> None:
    use(monkeypatch, *names)
    warm_up(setup_of(keys), quiet=quiet)
    out, error = capsys.readouterr()
    assert out == ""
    assert ("compiling kernels" in error) == (len(names) > 0 and not quiet)
    assert error.rpartition("\r")[2].strip() == ""  # the bar is gone


def test_ctrl_c_within_the_compiler_acts_before_the_next_kernel(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler would lose the exception."""
    told: list[str] = []

    @contextmanager
    def compiling(tell: Callable[[str], None]) -> Iterator[None]:
        for name in ("first", "second", "third"):
            tell(name)
            told.append(name)
            if name == "second":
                signal.raise_signal(signal.SIGINT)
                told.append("compiled")
        yield

    monkeypatch.setattr("sora_ref.kernels.get", lambda *_: replace(KERNELS, compiling=compiling))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            warm_up(setup_of(keys), quiet=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert told == ["first", "second", "compiled"]


@pytest.mark.parametrize("changes", [{}, {"model__max_length": 4}, {"method": "head"}, {"gate__rule": "paper"}])
@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_up_makes_a_step_and_an_evaluation_and_keeps_nothing(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, kind: str, changes: dict[str, Any]
) -> None:
    use(monkeypatch)
    made: dict[str, Any] = {}
    setup = setup_of(keys, kind, **changes)
    before = {name: array.copy() for name, array in setup.frozen.items()}
    for name in ("loss_and_gradients", "predict_logits"):
        real: Callable[..., Any] = getattr(__import__("sora_ref.run.warm_up", fromlist=[name]), name)

        def noted(*args: Any, real: Any = real, name: str = name) -> Any:
            made[name] = real(*args)
            return made[name]

        monkeypatch.setattr(f"sora_ref.run.warm_up.{name}", noted)
    warm_up(setup, quiet=True)
    assert np.isfinite(made["loss_and_gradients"][0])
    assert made["predict_logits"].shape == (2, setup.model.outputs)
    del made["loss_and_gradients"]
    warm_up(setup, initial_params(setup), quiet=True)
    assert "loss_and_gradients" not in made
    assert all(np.array_equal(setup.frozen[name], array) for name, array in before.items())


def test_a_model_that_gives_no_numbers_is_left_to_the_work_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_keys(tmp_path)
    weight = np.full((12,), 3e38, np.float32)
    change_weights(Path(own["model.path"]), {"encoder.layer.0.intermediate.dense.bias": weight})
    use(monkeypatch)
    warm_up(setup_of(own), quiet=True)
    with pytest.raises(SoRAError, match="finite"):
        run_once(tmp_path / "run", own)
