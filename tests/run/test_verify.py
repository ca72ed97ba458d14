"""Agreement of pruned and merged modules with the derived bound; and that disagreement is reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import MODULES, make_keys, run_once

from sora_ref import sora_linear_forward
from sora_ref.bounds import linear_bound
from sora_ref.run import verify
from sora_ref.run.tasks import read_task
from sora_ref.run.text import Encoded, encode
from sora_ref.run.trained import Loaded, load_trained
from sora_ref.run.verify import in_float64, model_agreement, module_agreement

MODULE = "encoder.layer.1.output.dense"


@pytest.fixture(scope="module", params=["float32", "float64"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder: Path = tmp_path_factory.mktemp("verify")
    run_once(folder / "run", make_keys(folder), dtype=request.param, train__epochs=1, gate__strength=0.1)
    return load_trained(folder / "run")


@pytest.fixture(scope="module")
def encoded(loaded: Loaded) -> Encoded:
    return encode(read_task(loaded.setup.config).splits["test"], loaded.setup.tokenizer, loaded.setup.model.config)


@pytest.mark.bounded("SORA-BOUND-2", "SORA-PRUNE-2", "SORA-PRUNE-4")
def test_every_module_is_inside_its_bound_and_somewhere_rounding_shows(loaded: Loaded, encoded: Encoded) -> None:
    rows = module_agreement(loaded.setup, loaded.params, encoded)
    adapters = loaded.setup.adapters(loaded.params)
    assert [row.module for row in rows] == list(adapters)
    assert len(rows) == MODULES
    for row in rows:
        assert (row.r, row.kept) == (3, int(np.count_nonzero(adapters[row.module].g)))
        assert 0 <= row.worst_pruned <= 1
        assert 0 <= row.worst_merged <= 1
        assert (row.pruned > 0) == (row.worst_pruned > 0)
    assert any(row.kept < row.r for row in rows)
    assert any(row.merged > 0 for row in rows)


def inputs_of(loaded: Loaded, encoded: Encoded) -> Any:
    """What the module sees, by the forward's own cache."""
    from sora_ref.models import classifier_forward
    from sora_ref.run.text import pad

    setup = loaded.setup
    batch = pad(encoded, np.arange(len(encoded.ids)), setup.backend)
    _, cache = classifier_forward(
        setup.model, setup.all_params(loaded.params), batch, scales=setup.scales, ops=setup.ops
    )
    return cache.model.linear_inputs()[MODULE]


@pytest.mark.bounded("SORA-BOUND-2")
@pytest.mark.parametrize("form", ["pruned", "merged"])
@pytest.mark.parametrize("factor", [3.0, 100.0])
def test_error_of_three_bounds_in_one_output_of_one_module_is_reported(
    loaded: Loaded, encoded: Encoded, monkeypatch: pytest.MonkeyPatch, form: str, factor: float
) -> None:
    """The allowance is two bounds, one for either evaluation; so 3 of them less the honest error stand above 1."""
    setup, params = loaded.setup, loaded.params
    adapter = setup.adapters(params)[MODULE]
    x = inputs_of(loaded, encoded)
    W0, b = (setup.all_params(params)[f"{MODULE}.{part}"] for part in ("weight", "bias"))
    bound = linear_bound(x, W0, b, adapter)
    place = np.unravel_index(int(np.argmax(np.abs(x).sum(axis=-1))), x.shape[:-1])
    made: list[Any] = []

    def forward(x_: Any, W: Any, b_: Any, given: Any) -> Any:
        y, cache = sora_linear_forward(x_, W, b_, given)
        mine = x_ is x_seen and (given is None) == (form == "merged") and (given is None or given.rank != adapter.rank)
        if mine:
            y = y.astype(np.float64)
            y[(*place, 0)] += factor * bound[(*place, 0)]
            made.append(1)
        return y, cache

    x_seen = None
    real = verify.classifier_forward

    def watch(*args: Any, **options: Any) -> Any:
        nonlocal x_seen
        out, cache = real(*args, **options)
        x_seen = cache.model.linear_inputs()[MODULE]
        return out, cache

    monkeypatch.setattr(verify, "classifier_forward", watch)
    monkeypatch.setattr(verify, "sora_linear_forward", forward)
    rows = {row.module: row for row in module_agreement(setup, params, encoded)}
    assert adapter.rank != int(np.count_nonzero(adapter.g)), "nothing was pruned here: choose another module"
    assert made == [1]
    share = {"pruned": rows[MODULE].worst_pruned, "merged": rows[MODULE].worst_merged}[form]
    assert (factor - 2) / 2 < share <= (factor + 2) / 2
    assert share > 1
    others = [s for m, row in rows.items() if m != MODULE for s in (row.worst_pruned, row.worst_merged)]
    assert max(others) <= 1


@pytest.mark.bounded("SORA-LINEAR-2")
def test_scale_computed_anew_from_the_pruned_rank_is_far_outside_the_bound(loaded: Loaded, encoded: Encoded) -> None:
    """What a wrong pruning does: α/r of the rank that is left."""
    setup = loaded.setup
    real = verify.pruned_params
    with pytest.MonkeyPatch.context() as patch:

        def rescaled(setup: Any, params: Any) -> Any:
            smaller = dict(real(setup, params))
            for module in setup.scales:
                B = smaller[f"{module}.sora_B"]
                smaller[f"{module}.sora_B"] = B * B.dtype.type(3 / max(B.shape[1], 1))
            return smaller

        patch.setattr(verify, "pruned_params", rescaled)
        rows = module_agreement(setup, loaded.params, encoded)
    for row in rows:
        assert (row.worst_pruned > 1000) == (0 < row.kept < row.r)


@pytest.mark.measured("SORA-PRUNE-2", "SORA-PRUNE-4")
def test_whole_model_is_as_near_to_itself_pruned_and_merged_as_to_float64(loaded: Loaded, encoded: Encoded) -> None:
    found = model_agreement(loaded.setup, loaded.params, encoded)
    for a, b, c in (
        (found.pruned, found.unpruned_64, found.pruned_64),
        (found.merged, found.unpruned_64, found.merged_64),
    ):
        assert a <= b + c  # the triangle's law, exact in float64 but for the subtractions
    if loaded.setup.config.dtype == "float32":
        assert 0 < max(found.unpruned_64, found.pruned_64, found.merged_64) < 2**-16
    else:
        assert max(found.pruned, found.merged, found.merged_64) < 2**-44


def test_float64_network_has_the_same_weights_and_the_specifications_operations(loaded: Loaded) -> None:
    from sora_ref.models import MODEL_SPEC

    setup, params = in_float64(loaded.setup, loaded.params)
    assert setup.config.dtype == "float64"
    assert setup.ops == MODEL_SPEC
    for name, array in setup.all_params(params).items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, loaded.setup.all_params(loaded.params)[name])


def test_outputs_that_agree_exactly_where_the_bound_is_zero_share_nothing(loaded: Loaded) -> None:
    zero = np.zeros((2, 3))
    assert verify._distance(loaded.setup, zero, zero, zero) == (0.0, 0.0)
    assert verify._distance(loaded.setup, zero + 1, zero, zero + 0.5) == (1.0, 2.0)
    plain = replace(loaded.setup, scales={})
    assert (
        module_agreement(
            plain, loaded.setup.head(loaded.params), Encoded((np.array([2]),), (np.array([0]),), np.array([1]), None)
        )
        == []
    )
