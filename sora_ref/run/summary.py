"""What a run ends with: its scores, its ranks and counts, the null model beside them, and two pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from sora_ref import count_parameters, module_ranks
from sora_ref.count import Counts as ParameterCounts
from sora_ref.methods import Ending, Survivors
from sora_ref.run.checkpoint import Position
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.pictures import draw_gates, draw_ranks
from sora_ref.run.records import Measured, gate_history
from sora_ref.run.setup import Params, Setup
from sora_ref.run.text import Encoded
from sora_ref.storage.documents import read_json
from sora_ref.storage.files import write_json

_UNDEFINED = "undefined"


class Null(Struct):
    """What thresholds alone would leave; see `sora_ref.methods.survivors`."""

    kept: float


class Stage(Struct):
    """A stage of the sparsifying scheduler in a summary."""

    stage: int
    strength: float
    performance: Measured
    memorization_percent: float | None
    generalization_percent: float | None


class Counts(Struct):
    """The counts that `summary_lines` prints."""

    kept: int
    components: int
    retained: int
    total: int
    with_gates: int
    with_head: int
    released: int


class Best(Struct):
    """The best evaluation of a run that goes by it; `file` holds its parameters where they are kept."""

    step: int
    split: str
    metric: str
    score: float
    file: str | None = None


class Summary(Struct):
    """What `summary_lines` reads of a summary; it may hold more."""

    task: str
    steps: int
    seconds: float
    scores: dict[str, dict[str, float | None]]
    counts: Counts
    null: Null | None
    stages: list[Stage]
    notes: list[str] = []
    survivors: str | None = None
    unscored: list[str] = []
    best: Best | None = None
    device_memory: int = 0


def finish(
    out: Path,
    setup: Setup,
    data: Mapping[str, Encoded],
    params: Params,
    position: Position,
    stages: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
    best: Mapping[str, Any] | None = None,
    unscored: Sequence[str] = (),
) -> dict[str, Any]:
    """Score every labelled split but train, count, draw, and write summary.json last: a run with one is complete.

    best: the best evaluation, see `progress.best_of`.  unscored: labelled splits that were left out of `data`.
    On a GPU it says, too, how many bytes of its memory the run has held at most.
    """
    scores = {}
    for split, part in data.items():
        if split != "train" and part.labels is not None:
            scores[split] = score(setup.labels, predict_logits(setup, params, part), part.labels)
    adapters = setup.adapters(params)
    ranks = module_ranks(adapters)
    head = sum(int(np.prod(value.shape)) for value in setup.head(params).values())
    counts = count_parameters(adapters, hidden=setup.model.config.hidden_size, head=head)
    survivors = _survivors(setup, counts, position)
    summary = {
        "task": setup.config.task.name,
        "notes": list(notes),
        "steps": position.step,
        "seconds": round(position.seconds, 1),
        "scores": scores,
        "unscored": list(unscored),
        "best": best,
        "counts": counts._asdict(),
        "ranks": ranks,
        "null": None if survivors is None else survivors.null,
        "survivors": None if survivors is None else survivors.words,
        "stages": list(stages),
    }
    if setup.backend.memory is not None:
        summary["device_memory"] = setup.backend.memory()
    pictures = setup.method.pictures
    if "ranks" in pictures:
        draw_ranks(out / "ranks.png", setup.model.architecture, ranks, setup.config.adapter.r)
    history = gate_history(out) if "gates" in pictures else []
    if history:  # none where somebody has removed the log
        draw_gates(out / "gates.png", history)
    write_json(out / "summary.json", summary)
    return summary


def _survivors(setup: Setup, counts: ParameterCounts, position: Position) -> Survivors | None:
    """Who survived, as the run's method tells it; None where nothing can close."""
    config, tell = setup.config, setup.method.survivors
    if tell is None:
        return None
    return tell(
        Ending(
            kept=counts.kept,
            components=counts.components,
            threshold_sum=position.threshold_sum,
            steps=position.step,
            rule=config.gate_rule(),
            gate_gradient=config.gate.gradient,
            gate=config.branch().gate,
            scheduled=config.schedule is not None,
        )
    )


def read_summary(out: Path) -> dict[str, Any] | None:
    """The summary of a complete run; None where there is none yet."""
    path = out / "summary.json"
    if not path.exists():
        return None
    read_json(path, Summary, "the summary of a run")
    return read_json(path, dict[str, Any], "the summary of a run")


def score_words(scores: Mapping[str, float | None]) -> str:
    """Scores for a person to read; one that is undefined, a correlation with a constant, is said to be."""
    undefined = f"{_UNDEFINED}, for predictions or labels are all the same"
    words = {name: _number(value) for name, value in scores.items()}
    return ", ".join(f"{name} {undefined if word == _UNDEFINED else word}" for name, word in words.items())


def _number(value: float | None) -> str:
    """A summary that was read back has None where a number is undefined."""
    return _UNDEFINED if value is None or math.isnan(value) else f"{value:.4f}"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary for a person to read."""
    counts, survivors = summary["counts"], summary.get("survivors")
    lines = [f"{summary['task']}: {summary['steps']} steps in {summary['seconds']:.0f} s of training"]
    lines += [f"  {note}" for note in summary.get("notes", ())]
    for split, scores in summary["scores"].items():
        lines.append(f"  {split}: " + score_words(scores))
    for split in summary.get("unscored", ()):
        lines.append(f"  {split}: not scored; sora-ref eval RUN --split {split} does, or --score-test when training")
    best = summary.get("best")
    if best is not None:
        kept = f"; {best['file']} has its parameters" if best.get("file") else ""
        lines.append(f"  best: step {best['step']}, {best['split']} {best['metric']} {best['score']:.4f}{kept}")
    lines.append(f"  components kept: {survivors or '{kept} of {components}'.format_map(counts)}")
    lines.append(
        f"  adapter parameters: {counts['retained']:,} of {counts['total']:,} "
        f"(with gates {counts['with_gates']:,}, with head {counts['with_head']:,}; "
        f"the released counter would say {counts['released']:,})"
    )
    if "device_memory" in summary:
        lines.append(f"  device memory: {summary['device_memory'] / 2**20:,.0f} MiB at its peak")
    for stage in summary["stages"]:
        performance = stage["performance"]
        percents = [stage["memorization_percent"], stage["generalization_percent"]]
        memorized, generalized = ("undefined" if p is None else f"{p:.1f} %" for p in percents)
        lines.append(
            f"  stage {stage['stage']}, strength {stage['strength']:g}: {performance['nonzero']:,} non-zero, "
            f"memorization {_number(performance['memorization'])} ({memorized}), "
            f"generalization {_number(performance['generalization'])} ({generalized})"
        )
    return lines
