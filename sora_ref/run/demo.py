"""The demonstration: SoRA on real weights and real data, with every control beside it.

Five runs of equal steps: the head alone; LoRA at r_max; SoRA; SoRA with the gate's data gradient zeroed; and the plain
LoRA nearest in parameters to what SoRA's pruning leaves.  Then the pruning is proved, the model merged and exported.

The setting lets the data decide who survives.  The gates follow the paper's rule, a plain gradient step and T_{ηλ}: a
component stays where the loss pulls at its gate harder than λ.  All gates start at the same value g0, and the
thresholds of the whole run add up to more than g0, so without a data gradient every gate is zero at the end: the null
model keeps nothing, and so does the control.  A component that is there at the end was kept by the data.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sora_ref.preconditions import require
from sora_ref.run.config import Config, load_config
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.interrupt import Interrupted
from sora_ref.run.say import Say
from sora_ref.run.ship import write_merged, write_peft, write_pruned
from sora_ref.run.tasks import read_task
from sora_ref.run.text import encode
from sora_ref.run.trained import load_trained
from sora_ref.run.training import train
from sora_ref.run.verify import ModelAgreement, ModuleAgreement, model_agreement, module_agreement

_SAMPLE = 128  # test examples that the pruning is proved on


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    method: str
    accuracy: float
    kept: int | None
    components: int | None
    parameters: int
    null: float | None
    seconds: float


def demo_config(*, quick: bool, seed: int, backend: str) -> dict[str, Any]:
    """The keys of the configuration of all five runs: the defaults, or what a small model and few steps need."""
    shared = {"seed": seed, "backend": backend, "train.score_test": True}
    if quick:
        return shared | {
            "model.path": "bert-tiny",
            "model.max_length": 32,
            "task.limit": 1920,
            "train.batch": 64,
            "train.microbatch_tokens": 1024,
            "train.lr": 1e-2,
            "gate.rule": "adamw-xi",
            "gate.lr": 1.3e-1,
            "gate.strength": 4e-2,
        }
    return shared


def run_demo(
    out: Path, *, quick: bool, seed: int, backend: str, quiet: bool, say: Say
) -> tuple[dict[str, Any], list[str]]:
    """Run everything into `out`/demo (or demo-quick), going on where an earlier call was stopped; facts and lines."""
    folder = out / ("demo-quick" if quick else "demo")
    shared = demo_config(quick=quick, seed=seed, backend=backend)

    def run(name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        config = load_config(None, shared | dict(keys))
        say(f"\n{name}")
        try:
            return train(config, folder / name, resume="if-any", quiet=quiet, say=lambda line: None)
        except Interrupted as stopped:
            sentence = f"{folder / name}: stopped after a checkpoint; the same command goes on from there"
            raise Interrupted(sentence, stopped.number) from stopped

    read_task(load_config(None, shared), say)  # fetched and described once
    head = run("head-only", {"method": "head"})
    lora = run("lora", {"method": "lora"})
    sora = run("sora", {})
    control = run("sora-zeroed-gradient", {"gate.gradient": "zero"})
    r = nearest_rank(sora["counts"], load_config(None, shared))
    nearest = run(f"lora-r{r}", {"method": "lora", "adapter.r": r, "adapter.alpha": 2.0 * r})
    results = [
        _result("head only", head),
        _result("LoRA, r = 8", lora),
        _result(f"LoRA, r = {r} (nearest)", nearest),
        _result("SoRA, r_max = 8", sora),
        _result("SoRA, gate gradient zeroed", control),
    ]

    loaded = load_trained(folder / "sora")
    setup = loaded.setup
    test = read_task(setup.config, labels=setup.labels, split="test").splits["test"]
    encoded = encode(test, setup.tokenizer, setup.model.config)
    some = encoded.take(list(range(min(_SAMPLE, len(test)))))
    modules = module_agreement(setup, loaded.params, some)
    whole = model_agreement(setup, loaded.params, some)

    shipped = folder / "shipped"
    shutil.rmtree(shipped, ignore_errors=True)
    write_pruned(loaded, shipped / "pruned")
    write_merged(loaded, shipped / "merged")
    reports = [write_peft(loaded, shipped / f"peft-{layout}", layout) for layout in ("compact", "uniform")]
    scores = {"unpruned": sora["scores"]["test"]["accuracy"]}
    scores |= {name: _accuracy(shipped / name, encoded) for name in ("pruned", "merged")}

    facts = {
        "results": [vars(result) for result in results],
        "modules": [row._asdict() for row in modules],
        "model": whole._asdict(),
        "test_accuracy": scores,
        "exported": [{"folder": str(report.folder), "compared": report.comparison._asdict()} for report in reports],
    }
    lines = [
        *_module_lines(modules, len(some.ids)),
        "",
        *_model_lines(whole, len(some.ids)),
        "",
        *(f"test accuracy {name}: {value:.4f}" for name, value in scores.items()),
        *(
            f"exported {report.folder}: {report.comparison.tensors} tensors read back, "
            f"largest difference {report.comparison.max_abs_diff:g}"
            for report in reports
        ),
        "",
        *_table(results, sora["steps"]),
        "",
        *_who_decided(sora, control),
        f"pictures: {folder / 'sora' / 'ranks.png'}, {folder / 'sora' / 'gates.png'}",
    ]
    return facts, lines


def nearest_rank(counts: Mapping[str, int], config: Config) -> int:
    """The rank of a plain LoRA on all modules whose parameters come nearest to those retained; at least 1."""
    per_rank = counts["total"] / config.adapter.r
    return max(1, min(config.adapter.r, round(counts["retained"] / per_rank)))


def _result(method: str, summary: Mapping[str, Any]) -> Result:
    counts, null = summary["counts"], summary["null"]
    adapted = counts["components"] > 0
    return Result(
        method=method,
        accuracy=summary["scores"]["test"]["accuracy"],
        kept=counts["kept"] if adapted else None,
        components=counts["components"] if adapted else None,
        parameters=counts["retained"],
        null=None if null is None else null["kept"],
        seconds=summary["seconds"],
    )


def _accuracy(path: Path, encoded: Any) -> float:
    loaded = load_trained(path)
    require(encoded.labels is not None, "the test split has no labels")
    logits = predict_logits(loaded.setup, loaded.params, encoded)
    return score(loaded.setup.labels, logits, np.asarray(encoded.labels))["accuracy"]


def _module_lines(modules: Sequence[ModuleAgreement], examples: int) -> list[str]:
    width = max(len(row.module) for row in modules)
    lines = [
        f"each module on its own inputs from {examples} test examples: largest change by pruning and by merging,",
        "and the largest share of the derived rounding bound that it uses up (at most 1 is agreement)",
        f"  {'module':<{width}}  rank   |pruned|   share   |merged|   share",
    ]
    for row in modules:
        lines.append(
            f"  {row.module:<{width}}  {row.r} → {row.kept}  {row.pruned:8.1e}  {row.worst_pruned:6.4f}"
            f"   {row.merged:8.1e}  {row.worst_merged:6.4f}"
        )
    worst = max(max(row.worst_pruned, row.worst_merged) for row in modules)
    verdict = "inside the bound" if worst <= 1 else "OUTSIDE THE BOUND"
    return [*lines, f"  all {len(modules)} modules: {verdict}, worst share {worst:.4f}"]


def _model_lines(whole: ModelAgreement, examples: int) -> list[str]:
    return [
        f"the whole model's logits on {examples} test examples, largest distance (measured, not derived):",
        f"  pruned to unpruned {whole.pruned:.1e}, merged to unpruned {whole.merged:.1e}",
        f"  to the same network in float64: unpruned {whole.unpruned_64:.1e}, pruned {whole.pruned_64:.1e}, "
        f"merged {whole.merged_64:.1e}",
    ]


def _table(results: Sequence[Result], steps: int) -> list[str]:
    width = max(len(result.method) for result in results)
    lines = [
        f"{steps} steps each; null: components that thresholds alone would keep",
        f"  {'method':<{width}}  test accuracy  components kept    null  adapter parameters  seconds",
    ]
    for result in results:
        kept = "–" if result.kept is None else f"{result.kept}/{result.components}"
        null = "–" if result.null is None else f"{result.null:.1f}"
        lines.append(
            f"  {result.method:<{width}}  {result.accuracy:13.4f}  {kept:>15}  {null:>6}"
            f"  {result.parameters:18,}  {result.seconds:7.0f}"
        )
    return lines


def _who_decided(sora: Mapping[str, Any], control: Mapping[str, Any]) -> list[str]:
    """Whether the data decided who survives: SoRA beside its control and its null model."""
    kept, null, without = sora["counts"]["kept"], sora["null"], control["counts"]["kept"]
    facts = (
        f"kept by SoRA {kept}, by the same run with the gate's data gradient zeroed {without}, by thresholds alone "
        f"{null['kept']:.1f} (thresholds add up to {null['threshold_sum']:.3f})"
    )
    chance = max(without, null["kept"])
    if chance == 0 < kept:
        return [facts, "nothing survives without the gate's data gradient: every survivor is the data's choice"]
    if kept > chance:
        return [facts, f"the data save at least {kept - chance:.0f} of the survivors; the thresholds spare the others"]
    return [facts, "so here the data do not decide who survives: the thresholds do"]
