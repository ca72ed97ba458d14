"""The benchmark's own arithmetic: verdicts, operation counts, files.  No test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bert import CONFIG, KINDS, make_case

from sora_ref.models.bert import BERT

TRAINED = ("sora_A", "sora_g", "sora_B", "bias")  # a bias, so that the backward goes as far where there is no adapter
BENCH = Path(__file__).resolve().parent / "bench"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's modules, which stand in a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCH))
        import job
        import report

        yield type("Bench", (), {"job": job, "report": report})


def test_a_target_is_met_on_its_own_side_and_at_itself(bench: Any) -> None:
    Row = bench.report.Row
    assert [Row("", value, target=0.75).met for value in (0.74, 0.75, 0.76)] == [True, True, False]
    assert [Row("", value, target=0.75, asks="at least").met for value in (0.74, 0.75, 0.76)] == [False, True, True]
    assert Row("", 1.0).met is None


def test_the_file_holds_names_values_targets_verdicts_and_the_machine(bench: Any, tmp_path: Path) -> None:
    report = bench.report
    rows = [report.Row("train", 0.8, target=0.75, detail="4 ms to 5 ms"), report.Row("peak", 7.0, unit="MB")]
    facts = report.machine()
    assert {"processor", "cores", "blas", "versions", "load", "commit"} <= facts.keys()
    assert facts["blas"], "no BLAS was found: expected NumPy's own"
    written = json.loads(report.to_json(rows, facts))
    assert [(r["name"], r["value"], r["target"], r["met"]) for r in written["results"]] == [
        ("train", 0.8, 0.75, False),
        ("peak", 7.0, None, None),
    ]
    assert written["machine"] == json.loads(json.dumps(facts))
    assert report.table(rows).splitlines()[2:] == [
        "| train | 0.80 | ≤ 0.75 | **no** | 4 ms to 5 ms |",
        "| peak | 7 MB |  |  |  |",
    ]
    report.draw(tmp_path / "bench.png", rows, "title")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


class Counted(np.ndarray[Any, Any]):
    """An array whose matrix products are counted, 2·m·k·n operations each."""

    operations = 0.0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [x.view(np.ndarray) if isinstance(x, Counted) else x for x in inputs]
        out = options.pop("out", None)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counted.operations += 2.0 * result.size * plain[0].shape[-1]
        if out is not None:
            out[0].view(np.ndarray)[...] = result
            return out[0]
        return np.asarray(result).view(Counted)


@pytest.mark.exact
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rank", [0, 2])
def test_operations_are_counted_as_the_specification_does_them(bench: Any, training: bool, rank: int) -> None:
    case = make_case(1, kinds=KINDS if rank else (), lengths=(3, 3), head="mean")
    params = {name: value.view(Counted) for name, value in case.params.items()}
    Counted.operations = 0.0
    hidden, cache = BERT.forward(CONFIG, params, case.batch, scales=case.scales)
    if training:
        BERT.backward(hidden, cache, [f"{module}.{part}" for module in BERT.modules(CONFIG) for part in TRAINED])
    ranks = {params[f"{module}.sora_g"].shape[0] for module in case.scales} or {0}
    assert len(ranks) == 1
    assert Counted.operations == bench.job.encoder_flops(CONFIG, [3, 3], ranks.pop(), training=training)


def test_an_unknown_part_is_refused_in_a_sentence() -> None:
    done = subprocess.run([sys.executable, str(BENCH), "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no part nothing: expected some of steps" in done.stderr
