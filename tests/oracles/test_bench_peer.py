"""The benchmark's sides do the same work: the same loss, the same gradient, the same logits, from the same weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora_ref import kernels
from sora_ref.run.artefacts import is_cached

pytest.importorskip("torch")
BENCH = Path(__file__).resolve().parents[1] / "bench"
U = 2.0**-24
NEAR = 64 * U  # measured: losses and norms 1.3 u apart relatively, logits 11 u of the largest


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Any, Any, Any]]:
    """Job, Ours, Torch."""
    for name in ("minilm", "hutto2014"):
        if not is_cached(name):
            pytest.skip(f"{name} is not in the cache: sora-ref fetch {name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        from job import Job
        from ours import Ours
        from torch_peer import Torch

        yield Job, Ours, Torch


@pytest.mark.weights
@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize(
    "work",
    [
        {"batch": 4, "length": 16},
        {"batch": 4, "length": 16, "rank": 3, "closed": 0.7, "fold": False},
        {"batch": 4, "length": 16, "gated": False, "kernels": "reference"},
        {"length": 0},
    ],
    ids=["full", "not folded", "LoRA", "movies"],
)
def test_a_training_step_has_the_same_loss_and_gradient(sides: tuple[Any, Any, Any], work: dict[str, Any]) -> None:
    Job, Ours, Torch = sides
    ours, theirs = (side(Job(**work)).result() for side in (Ours, Torch))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], rel=NEAR)
    other = Torch(Job(**work | {"batch": 3})).result()
    assert other["norm"] != pytest.approx(theirs["norm"], rel=NEAR), "the control, of another batch, looks the same"


@pytest.mark.weights
@pytest.mark.measured("SORA-PRUNE-4")
@pytest.mark.parametrize("merged", [False, True])
def test_inference_has_the_same_logits(sides: tuple[Any, Any, Any], merged: bool) -> None:
    Job, Ours, Torch = sides
    work = {"what": "infer", "batch": 4, "length": 16}
    ours, theirs = (np.array(side(Job(**work, merged=merged)).result()["logits"]) for side in (Ours, Torch))
    limit = NEAR * np.max(np.abs(theirs))
    assert np.max(np.abs(ours - theirs)) <= limit
    bare = np.array(Torch(Job(**work, rank=0)).result()["logits"])
    assert np.max(np.abs(ours - bare)) > limit, "the control, without adapters, looks the same"


@pytest.mark.weights
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("name", kernels.names("numpy"))
def test_every_set_of_kernels_does_the_same_work(sides: tuple[Any, Any, Any], name: str) -> None:
    if name == "numba":
        pytest.importorskip(name, reason="Numba is not installed: pip install 'sora_ref[fast]'", exc_type=ImportError)
    Job, Ours, Torch = sides
    train = {"batch": 4, "length": 16}
    for work in (train, {**train, "what": "infer"}):
        ours, theirs = (side(Job(**work, kernels=name)).result() for side in (Ours, Torch))
        for key in ours:
            limit = NEAR * np.max(np.abs(theirs[key]))
            np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=limit)


@pytest.mark.weights
@pytest.mark.independent("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.parametrize("work", [{"batch": 4, "length": 16}, {"length": 0}], ids=["full", "movies"])
def test_peft_begins_where_we_do_and_has_the_same_loss_and_gradient(
    sides: tuple[Any, Any, Any], work: dict[str, Any]
) -> None:
    pytest.importorskip("peft")
    from torch_peer import Peft

    Job, Ours, _ = sides
    ours, theirs = (side(Job(**work, gated=False)).result() for side in (Ours, Peft))
    for name in ours:
        assert ours[name] == pytest.approx(theirs[name], rel=NEAR)
    gated = Ours(Job(**work)).result()
    assert gated["norm"] != pytest.approx(theirs["norm"], rel=NEAR), (
        "the control, with the gates' gradient, is the same"
    )


@pytest.mark.weights
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports what PyTorch itself deprecates
@pytest.mark.parametrize("work", [{"batch": 4, "length": 16}, {"length": 0}], ids=["one shape", "movies"])
def test_torch_compile_has_the_same_loss_and_gradient_as_eager(
    sides: tuple[Any, Any, Any], work: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With one block of the six, since compiling takes seconds a block."""
    import job as jobs
    from sides import missing
    from torch_peer import Compiled

    if (why := missing("compile")) is not None:
        pytest.skip(f"torch.compile cannot run here: {why}")
    loaded = jobs.load_model
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jobs, "load_model", lambda folder: _one_block(loaded(folder)))
    Job, _, Torch = sides
    compiled, eager = Compiled(Job(**work)), Torch(Job(**work))
    first = compiled.result()
    for name, value in eager.result().items():
        assert first[name] == pytest.approx(value, rel=NEAR)
    compiled.run()
    eager.run()
    second = compiled.result()
    for name, value in eager.result().items():
        assert second[name] == pytest.approx(value, rel=NEAR)
        assert second[name] != pytest.approx(first[name], rel=NEAR), "the control, a step before, is the same"


def _one_block(model: Any) -> Any:
    return model._replace(config=replace(model.config, num_hidden_layers=1))


@pytest.mark.weights
@pytest.mark.measured("SORA-LINEAR-1", "SORA-LINEAR-3")
def test_the_build_of_before_runs_its_own_code_and_has_the_same_loss_and_gradient(
    sides: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import sides as theirs
    from measure import Process

    monkeypatch.setattr(theirs, "BEFORE", tmp_path / "before")
    if (why := theirs.missing("before")) is not None:
        pytest.skip(f"the build of before cannot run here: {why}")
    _, env = theirs.start("before")
    command = [sys.executable, "-c", "import sora_ref.backends; print(sora_ref.backends.__file__)"]
    loaded = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(loaded).is_relative_to(tmp_path / "before")
    Job, Ours, _ = sides
    job = Job(batch=4, length=16)
    with Process(job.on("before")) as process:
        before = process.ask("result")
    ours = Ours(job).result()
    assert ours.keys() == before.keys()
    for name in ours:
        assert ours[name] == pytest.approx(before[name], rel=NEAR)
