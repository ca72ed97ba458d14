"""What a run ends with: its scores, its ranks and counts, the null model beside them, and two pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from sora_ref import count_parameters, module_ranks, survival_probability
from sora_ref.prox import released_threshold
from sora_ref.run.checkpoint import Position
from sora_ref.run.config import Config
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.pictures import draw_gates, draw_ranks
from sora_ref.run.records import Measured, gate_history
from sora_ref.run.setup import Params, Setup
from sora_ref.run.text import Encoded
from sora_ref.storage.documents import read_json
from sora_ref.storage.files import write_json

_UNDEFINED = "undefined"


class Null(Struct):
    """What thresholds alone would leave; see `null_model`."""

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
    null = null_model(setup.config, counts.components, position)
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
        "null": null,
        "survivors": survivors_in_words(setup.config, counts.kept, counts.components, null),
        "stages": list(stages),
    }
    if setup.backend.memory is not None:
        summary["device_memory"] = setup.backend.memory()
    if ranks:
        draw_ranks(out / "ranks.png", setup.model.architecture, ranks, setup.config.adapter.r)
    history = gate_history(out)
    if history:
        draw_gates(out / "gates.png", history)
    write_json(out / "summary.json", summary)
    return summary


def null_model(config: Config, components: int, position: Position) -> dict[str, Any] | None:
    """What thresholds alone would leave, no gradient on the gates at all (SORA-NULL-1).

    None where nothing is gated, under the sparsifying scheduler, or where the rule's threshold is no single number.
    """
    rule = config.gate_rule()
    if (
        components == 0
        or not config.adapter.gated
        or rule.scalar_amount(0.0, 0.0) is None
        or config.schedule is not None
    ):
        return None
    cut = position.threshold_sum
    if rule.threshold is released_threshold and position.step:
        cut += position.threshold_sum / position.step  # its dead zone is one threshold wider
    gate = config.adapter.gate
    share = survival_probability(cut) if gate == "normal" else float(abs(gate) > cut)
    return {"threshold_sum": cut, "kept_share": share, "kept": share * components}


def survivors_in_words(config: Config, kept: int, components: int, null: Mapping[str, Any] | None) -> str | None:
    """Whether the survivors are what thresholds alone predict; None where there are no gates.

    Gates drawn from N(0, 1) survive alone as independent draws with the null's share p, so n of them leave
    n·p ± √(n·p·(1−p)); a number within two of these standard deviations is what chance gives, which does not prove that
    the data had no say.  Gates that begin at one number survive all or not at all.
    """
    if components == 0 or not config.adapter.gated:
        return None
    found = f"{kept} of {components}"
    if null is None:
        why = "under the scheduler" if config.schedule is not None else f"for rule {config.gate.rule}"
        return f'{found}; there is no null model {why}: a run with gate.gradient = "zero" shows what chance keeps'
    if config.gate.gradient == "zero":
        return f"{found}; thresholds alone would keep {null['kept']:.1f}: the data had no say (gate.gradient is zero)"
    if config.adapter.gate == "normal":
        spread = math.sqrt(components * null["kept_share"] * (1 - null["kept_share"]))
        chance = f"{found}; thresholds alone would keep {null['kept']:.1f} ± {spread:.1f}"
        if abs(kept - null["kept"]) <= 2 * spread:
            return f"{chance}: within chance: nothing in their number says that the data chose them"
        return f"{chance}: the data chose"
    sums = f"the thresholds add up to {null['threshold_sum']:.3g}, gates began at {config.adapter.gate:g}"
    if null["kept"] == 0:
        verdict = "the data chose" if kept else "none outlived the thresholds; lower gate.strength"
        return f"{found}; thresholds alone would keep none ({sums}): {verdict}"
    if kept == components:
        total = null["threshold_sum"]
        enough = f" ({2 * abs(config.adapter.gate) / total:.2g} times as high)" if total else ""
        verdict = f"the data did not choose them; raise gate.strength or gate.lr{enough}, or train longer"
        return f"{found}; thresholds alone would keep all ({sums}): {verdict}"
    return f"{found}; thresholds alone would keep all ({sums}): the data chose which went, not which stayed"


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
