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
        import facts
        import job
        import parts
        import report
        import sides

        yield type("Bench", (), {"facts": facts, "job": job, "parts": parts, "report": report, "sides": sides})


def test_a_target_is_met_on_its_own_side_and_at_itself(bench: Any) -> None:
    Figure = bench.report.Figure
    assert [Figure(value, 0.75).met for value in (0.74, 0.75, 0.76)] == [True, True, False]
    assert [Figure(value, 0.75, "at least").met for value in (0.74, 0.75, 0.76)] == [False, True, True]
    assert Figure(1.0).met is None


def test_a_row_is_met_where_each_of_its_targets_is(bench: Any) -> None:
    Figure, Row = bench.report.Figure, bench.report.Row
    good, bad, free = Figure(0.7, 0.8), Figure(0.9, 0.8), Figure(2.0)
    assert [Row("", a, beside={"before": b}).met for a in (good, bad) for b in (good, bad)] == [True, *[False] * 3]
    assert Row("", free).met is None
    assert Row("", good, beside={"compile": free}).met is True
    assert Row("", free, beside={"before": bad}).met is False


def test_the_file_holds_names_values_targets_verdicts_and_the_machine(bench: Any, tmp_path: Path) -> None:
    report = bench.report
    beside = {"before": report.Figure(0.6, 0.68), "peft": report.Figure(0.5)}
    rows = [
        report.Row("train", report.Figure(0.8, 0.75), beside=beside, detail="4 ms to 5 ms"),
        report.Row("peak", report.Figure(7.0), unit="MB"),
    ]
    facts = bench.facts.machine()
    assert {"processor", "instructions", "cores", "blas", "versions", "kernels", "load", "commit"} <= facts.keys()
    assert "numba" in facts["versions"]
    assert facts["blas"], "no BLAS was found: expected NumPy's own"
    written = json.loads(report.to_json(rows, facts))
    assert [(r["name"], r["value"], r["target"], r["met"]) for r in written["results"]] == [
        ("train", 0.8, 0.75, False),
        ("peak", 7.0, None, None),
    ]
    assert {name: found["value"] for name, found in written["results"][0]["beside"].items()} == {
        "before": 0.6,
        "peft": 0.5,
    }
    assert written["machine"] == json.loads(json.dumps(facts))
    assert report.table(rows).splitlines() == [
        "| what | value | target | to before | target | to torch.compile | to PEFT | met | measured |",
        "| --- | --: | --: | --: | --: | --: | --: | --- | --- |",
        "| train | 0.80 | ≤ 0.75 | 0.60 | ≤ 0.68 |  | 0.50 | **no** | 4 ms to 5 ms |",
        "| peak | 7 MB |  |  |  |  |  |  |  |",
    ]
    report.draw(tmp_path / "bench.png", rows, "title")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "widest"),
    [("fpu avx2 avx512f sse4_2", "avx512f"), ("sse4_2 avx2", "avx2"), ("fpu sse4_2", "sse4_2"), ("fpu", "")],
)
def test_the_instruction_set_is_the_widest_that_the_processor_has(
    bench: Any, monkeypatch: pytest.MonkeyPatch, flags: str, widest: str
) -> None:
    monkeypatch.setattr(bench.facts, "_cpuinfo", lambda: {"flags": flags})
    assert bench.facts.instructions() == widest


@pytest.mark.parametrize("instructions", ["avx512f", "avx2"])
def test_every_target_holds_for_the_instruction_set_at_hand(
    bench: Any, monkeypatch: pytest.MonkeyPatch, instructions: str
) -> None:
    asked = []

    def measured(jobs: Any, n: int) -> dict[str, list[float]]:
        asked.append({side: (job.side, job.on("ours"), n) for side, job in jobs.items()})
        return {side: [3.0, 4.0, 50.0] if side == "ours" else [8.0] for side in jobs}

    monkeypatch.setattr(bench.parts, "by_turns", measured)
    monkeypatch.setattr(bench.facts, "instructions", lambda: instructions)
    monkeypatch.setattr(bench.parts, "missing", lambda side: None)
    rows = list(bench.parts.steps(9))
    for row, step, sides in zip(rows, bench.parts.STEPS, asked, strict=True):
        assert (row.figure.value, row.figure.target) == (0.5, step.torch[instructions])
        assert row.beside["before"] == bench.report.Figure(0.5, step.before)
        assert row.beside["compile"] == bench.report.Figure(0.5)
        assert ("peft" in row.beside) == (step.job.what == "train")
        assert sides == {side: (side, step.job, 9) for side in ("ours", "torch", *row.beside)}


def test_a_side_that_cannot_run_is_left_out_and_its_row_says_why(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.parts, "by_turns", lambda jobs, n: {side: [1.0] for side in jobs})
    monkeypatch.setattr(bench.parts, "missing", lambda side: "reasons" if side in ("before", "compile") else None)
    row = bench.parts.against("train", bench.job.Job(), ["torch", "compile", "before"], 1, torch=1.0, before=0.5)
    assert row.beside == {}
    assert row.met is True
    assert row.detail == "ours 1000 ms, torch 1000 ms, no torch.compile: reasons, no before: reasons"


def test_waiting_for_the_start_is_judged_in_seconds_after_one_run_that_warms_up(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"--help": iter([9.0, 0.1, 0.3, 0.2]), "import sora_ref": iter([9.0, 0.1, 0.1, 0.1])}
    monkeypatch.setattr(bench.parts, "command", lambda *words: next(seconds.get(words[-1], iter([0.04]))))
    monkeypatch.setattr(bench.parts, "first_step", lambda: 3.0)
    rows = list(bench.parts.start(3))
    assert [(row.figure.value, row.met, row.unit) for row in rows] == [
        (0.2, False, "s"),
        (0.1, True, "s"),
        (3.0, False, "s"),
    ]
    assert rows[0].detail == "python -c 'pass' 40 ms, python -c 'import numpy' 40 ms"


def test_torch_compile_is_missing_without_the_compiler_it_would_call(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert bench.sides.missing("compile") == "there is no C++ compiler no-such-compiler"
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    assert bench.sides.missing("compile") == "there is no Python.h to compile against"


def test_the_build_of_before_is_missing_where_git_has_not_its_commit(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(bench.sides, "ROOT", tmp_path)
    monkeypatch.setattr(bench.sides, "BEFORE", tmp_path / "before")
    assert bench.sides.missing("before") == "git has no commit 1603099 here, as in a copy without its history"
    assert not any(tmp_path.iterdir())


def test_the_build_of_before_is_told_of_a_job_in_its_own_words_and_imports_its_own_tree(bench: Any) -> None:
    job = bench.job.Job(kernels="numpy", rank=3)
    told = bench.sides.words(job.on("before"))
    assert told["rank"] == 3
    assert bench.sides.words(job) == {**told, "side": "ours", "kernels": "numpy"}
    command, env = bench.sides.start("before")
    assert command[-1] == str(bench.sides.BEFORE / "tests" / "bench" / "child.py")
    assert env["PYTHONPATH"] == str(bench.sides.BEFORE)
    assert bench.sides.start("ours")[0][-1] == str(BENCH / "child.py")


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
