"""Whole runs on the GPU's road: the emulated kernels through `train`, and how often the host waits for the device."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated import MISSING, make_device
from tiny_run import CONFIG, RANK, arrays_of, last, lines, make_config, make_keys, patch_step, records, run_once

from sora_ref import SoRAError, kernels, training_step
from sora_ref.backends import Backend, get
from sora_ref.kernels import Kernels
from sora_ref.kernels.cuda.operations import all_operations
from sora_ref.models import MODEL_SPEC, Batch, Classifier, classifier_backward, classifier_forward
from sora_ref.models.bert import BERT
from sora_ref.run import gradients, loop
from sora_ref.run.data import Labels
from sora_ref.run.setup import make_setup
from sora_ref.run.ship import write_merged, write_peft, write_pruned
from sora_ref.run.trained import load_trained
from sora_ref.run.transfer import gather_to_host

needs_compiler = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
LABELS = Labels("classification", ("bad", "good"), ("accuracy",))
Keys = dict[str, Any]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def on_numpy(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on NumPy, in float32."""
    run = tmp_path_factory.mktemp("numpy") / "run"
    run_once(run, keys, train__epochs=1)
    return run


class Counting:
    """A backend that counts its transfers to the host; asynchronous, as a GPU is."""

    def __init__(self, backend: Backend) -> None:
        self.transfers = 0
        self.backend = dataclasses.replace(backend, to_host=self._to_host, synchronous=False)
        self._real = backend.to_host

    def _to_host(self, x: Any) -> Any:
        self.transfers += 1
        return self._real(x)


def use(monkeypatch: pytest.MonkeyPatch, backend: Backend, kernels: Kernels | None = None) -> None:
    """Runs take this backend, whatever its name, and these kernels if any."""
    monkeypatch.setattr("sora_ref.run.setup.get_backend", lambda name: backend)
    if kernels is not None:
        monkeypatch.setattr("sora_ref.kernels.get", lambda backend, name=None: kernels)


def emulated() -> tuple[Backend, Kernels]:
    """What `cupy_backend` and `kernels.cuda.table` make of CuPy, made of its stand-in on NumPy arrays."""
    device = make_device(block=16, chunk=64)
    precisions: Mapping[str, Callable[..., Any]] = {
        name: (lambda frozen, name=name: all_operations(device, name, frozen)) for name in ("tf32", "bf16", "fp16")
    }
    backend = dataclasses.replace(get("numpy"), synchronous=False, memory=lambda: 3 * 2**20)
    return backend, Kernels(name="cuda", training=all_operations(device), precisions=precisions)


@pytest.mark.exact
@pytest.mark.parametrize("log_every", [1, 2, 5])
def test_the_host_waits_once_for_each_log_validation_and_checkpoint(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_every: int
) -> None:
    counting = Counting(get("strict"))
    use(monkeypatch, counting.backend)
    waited = {"training": 0, "validation": 0, "other": 0}
    for name, of in (("validate", "validation"), ("train_stage", "all")):
        real = getattr(loop, name)

        def counted(*args: Any, real: Any = real, of: str = of) -> Any:
            before = counting.transfers
            result = real(*args)
            waited[of] = waited.get(of, 0) + counting.transfers - before
            return result

        monkeypatch.setattr(loop, name, counted)
        monkeypatch.setattr("sora_ref.run.stages.train_stage", loop.train_stage)
    run_once(
        tmp_path / "run",
        keys,
        kernels="backend",
        train__log_every=log_every,
        train__checkpoint_every=4,
        train__epochs=2,
    )
    steps = 10
    logs = {step for step in range(1, steps + 1) if step % log_every == 0 or step == steps}
    saves = {4, 8, 10}
    epochs = {5, 10}  # losses are read before a validation too
    assert waited["all"] - waited["validation"] == len(logs | saves | epochs) + len(saves)
    assert len(records(tmp_path / "run", "train")) == len(logs)


@pytest.mark.exact
def test_a_run_with_its_losses_on_the_device_is_the_run_without(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_once(tmp_path / "host", keys, train__microbatch_tokens=12)  # so few that both are cut alike
    use(monkeypatch, dataclasses.replace(get("numpy"), synchronous=False))
    run_once(tmp_path / "device", keys, train__microbatch_tokens=12)
    for name in ("metrics.jsonl", "gates.jsonl"):
        assert (tmp_path / "device" / name).read_bytes() == (tmp_path / "host" / name).read_bytes()
    assert arrays_of(last(tmp_path / "device")) == arrays_of(last(tmp_path / "host"))
    assert last(tmp_path / "device").position.loss_sum == last(tmp_path / "host").position.loss_sum


@pytest.mark.exact
def test_a_loss_that_is_no_number_is_named_by_its_own_step_though_it_is_read_later(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, dataclasses.replace(get("numpy"), synchronous=False))
    real, calls = gradients.classifier_forward, 0

    def breaks(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        logits, cache = real(*args, **options)
        return (logits * np.float32("nan") if calls == 3 else logits), cache

    monkeypatch.setattr(gradients, "classifier_forward", breaks)
    with pytest.raises(SoRAError, match=r"the loss is nan at step 3: .* the last checkpoint is untouched"):
        run_once(tmp_path / "run", keys, train__log_every=5, train__checkpoint_every=5, train__microbatch_tokens=4000)
    assert calls == 5
    assert last(tmp_path / "run").position.step == 0


@pytest.mark.exact
def test_gathering_keeps_shapes_dtypes_and_bits_in_one_transfer() -> None:
    counting = Counting(get("strict"))
    rng = np.random.default_rng(0)
    given = [
        rng.standard_normal(shape).astype(d) for shape, d in (((), "f8"), ((2, 3), "f4"), ((0,), "f4"), ((5,), "f8"))
    ]
    found = gather_to_host(counting.backend, [counting.backend.from_host(x) for x in given])
    assert counting.transfers == 1
    for x, y in zip(given, found, strict=True):
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    assert gather_to_host(counting.backend, []) == []
    assert counting.transfers == 1


@needs_compiler
@pytest.mark.measured
@pytest.mark.parametrize("head", ["mean", "cls"])
def test_gradients_of_a_whole_model_are_the_specifications(head: Any) -> None:
    model, rng = Classifier(BERT, CONFIG, head, 2), np.random.default_rng(0)
    modules = [
        name.removesuffix(".weight") for name in BERT.shapes(CONFIG) if name.endswith("dense.weight") or "self" in name
    ]
    modules = [module for module in modules if not module.endswith(".bias")]
    shapes = {**BERT.shapes(CONFIG), **model.head_shapes}
    params = {name: 0.4 * rng.standard_normal(shape) for name, shape in shapes.items()}
    for module in modules:
        out, in_ = shapes[f"{module}.weight"]
        parts = {"A": (RANK, in_), "g": (RANK,), "B": (out, RANK)}
        params |= {f"{module}.sora_{part}": rng.standard_normal(shape) for part, shape in parts.items()}
    scales = dict.fromkeys(modules, 2.0)
    mask = np.arange(6) < np.array([[6], [3], [0]])
    batch = Batch(rng.integers(0, CONFIG.vocab_size, (3, 6)), rng.integers(0, 2, (3, 6)), mask)
    dlogits = rng.standard_normal((3, 2))
    for dtype, near in (("float64", 1e-12), ("float32", 2e-4)):
        own = {name: value.astype(dtype) for name, value in params.items()}
        found = []
        for ops in (MODEL_SPEC, MODEL_SPEC.replace(**emulated()[1].training)):
            logits, cache = classifier_forward(model, own, batch, scales=scales, ops=ops)
            found.append({"logits": logits, **classifier_backward(dlogits.astype(dtype), cache, tuple(params))})
        spec, kernels = found
        assert spec.keys() == kernels.keys() == {"logits", *params}
        for name, expected in spec.items():
            assert kernels[name].dtype == dtype
            np.testing.assert_allclose(
                kernels[name], expected, atol=near * max(1.0, np.abs(expected).max()), err_msg=name
            )


@needs_compiler
@pytest.mark.measured
def test_training_resuming_pruning_merging_and_exporting_on_the_kernels(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = keys | {"dtype": "float64"}
    run_once(tmp_path / "numpy", own)
    use(monkeypatch, *emulated())
    whole = run_once(tmp_path / "whole", own, train__microbatch_tokens=40)
    for name, expected in last(tmp_path / "numpy").params.items():
        np.testing.assert_allclose(last(tmp_path / "whole").params[name], expected, atol=1e-9, err_msg=name)
    for one, other in zip(*(lines(tmp_path / run / "gates.jsonl") for run in ("whole", "numpy")), strict=True):
        assert one["step"] == other["step"]
        zero = [{name: [g == 0 for g in gates] for name, gates in at["gates"].items()} for at in (one, other)]
        assert zero[0] == zero[1]
    assert whole["device_memory"] == 3 * 2**20

    real, steps = training_step, 0

    def stops(*args: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 8:
            raise KeyboardInterrupt
        return real(*args)

    patch_step(monkeypatch, stops)
    with pytest.raises(KeyboardInterrupt):
        run_once(tmp_path / "resumed", own, train__microbatch_tokens=40)
    run_once(tmp_path / "resumed", own, train__microbatch_tokens=40, resume=True)
    assert arrays_of(last(tmp_path / "resumed")) == arrays_of(last(tmp_path / "whole"))

    loaded = load_trained(tmp_path / "whole")
    ranks = write_pruned(loaded, tmp_path / "pruned")
    assert 0 < sum(ranks.values()) < RANK * len(ranks)
    write_merged(loaded, tmp_path / "merged")
    assert write_peft(loaded, tmp_path / "peft", "compact", None).comparison.max_abs_diff == 0


@needs_compiler
@pytest.mark.measured
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_run_in_each_precision_stays_near_float32(
    keys: Keys, on_numpy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    use(monkeypatch, *emulated())
    run_once(tmp_path / "run", keys, precision=precision, train__epochs=1, train__microbatch_tokens=40)
    losses = [record["loss"] for record in records(tmp_path / "run", "train")]
    monkeypatch.undo()
    expected = [record["loss"] for record in records(on_numpy, "train")]
    np.testing.assert_allclose(
        losses, expected, rtol={"fp32": 1e-4, "tf32": 0.01, "fp16": 0.01, "bf16": 0.1}[precision]
    )
    assert arrays_of(last(tmp_path / "run")) != arrays_of(last(on_numpy))
    config = json.dumps((tmp_path / "run" / "config.toml").read_text())
    assert f'precision = \\"{precision}\\"' in config
    assert load_trained(tmp_path / "run", overrides={"backend": "numpy"}).setup.config.precision is None


@pytest.mark.exact
def test_fp16_scales_gradients_by_a_power_of_two_and_takes_it_back_exactly(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    real = gradients.classifier_backward

    def sees(dlogits: Any, *others: Any) -> Any:
        seen.append(float(np.abs(dlogits).max()))
        return real(dlogits, *others)

    monkeypatch.setattr(gradients, "classifier_backward", sees)
    plain = Kernels(name="plain", precisions={"fp16": lambda frozen: {}})  # float32 by another name
    use(monkeypatch, get("numpy"), plain)
    for name, precision in (("fp16", "fp16"), ("fp32", "fp32")):
        run_once(tmp_path / name, keys, precision=precision, train__epochs=1)
    half = len(seen) // 2
    assert sorted(one / 1024 for one in seen[:half]) == sorted(seen[half:])
    assert arrays_of(last(tmp_path / "fp16")) == arrays_of(last(tmp_path / "fp32"))


@pytest.mark.exact
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"precision": "bf16"}, "backend 'numpy' has no precision bf16: expected fp32"),
        (
            {"precision": "tf32", "dtype": "float64"},
            "precision tf32 is one of float32 products: expected dtype float32",
        ),
        ({"precision": "fp32", "dtype": "float64"}, "precision fp32 is one of float32 products"),
        ({"precision": "tf32", "kernels": "reference"}, "precision tf32 comes with the backend's kernels"),
    ],
)
def test_a_precision_that_cannot_be_had_is_one_sentence(keys: Keys, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SoRAError, match=sentence):
        _ = make_setup(make_config(keys, **changes), LABELS).ops


@pytest.mark.exact
def test_fp32_is_the_dtype_and_one_thread_and_large_microbatches_suit_a_device(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {key: value for key, value in keys.items() if key != "train.microbatch_tokens"}
    host = make_setup(make_config(own, precision="fp32", workers=3), LABELS)
    assert host.ops == MODEL_SPEC.replace(**kernels.get("numpy", "numpy").training)
    assert host.work == (3, True, 512, 1024)
    use(monkeypatch, dataclasses.replace(get("numpy"), synchronous=False))
    device = make_setup(make_config(own, workers=3), LABELS)
    assert device.work == (1, False, 16_384, 65_536)
    assert make_setup(make_config(keys), LABELS).work.training_tokens == 40
