"""What a run shows of itself while it trains: losses and gates in its logs, scores of its validation splits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sora_ref import Rates, TrainState
from sora_ref.backends import Array
from sora_ref.errors import SoRAError
from sora_ref.names import module_of
from sora_ref.run.active import Run
from sora_ref.run.checkpoint import Position
from sora_ref.run.evaluate import predict_logits, score
from sora_ref.run.gradients import expected_labels
from sora_ref.run.progress import BEST, scored
from sora_ref.run.transfer import gather_to_host


def gates_of(run: Run, state: TrainState) -> dict[str, Array]:
    """What the method watches: the trained gates by their names, none where nothing can close."""
    return {name: state.params[name] for name in run.setup.method.watched(run.setup.scales)}


def read_losses(
    run: Run, unread: Sequence[tuple[int, Array]], besides: Mapping[str, Array]
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses, given with their steps, and what is wanted besides, brought to the host in one transfer.

    SoRAError at the first loss that is not finite.
    """
    found = gather_to_host(run.setup.backend, [*(loss for _, loss in unread), *besides.values()])
    losses = [float(loss) for loss in found[: len(unread)]]
    for (step, _), loss in zip(unread, losses, strict=True):
        if not math.isfinite(loss):
            raise SoRAError(
                f"{run.out}: the loss is {loss} at step {step}: expected a finite one; "
                "lower train.lr or look at the data; the last checkpoint is untouched"
            )
    return losses, dict(zip(besides, found[len(unread) :], strict=True))


def log_training(
    run: Run, position: Position, stage: int, rates: Rates, norm: np.ndarray | None, gates: Mapping[str, np.ndarray]
) -> tuple[Position, str]:
    """Log the mean loss since the last log, the rates, the norm and the gates; the losses begin anew.

    norm: of the gradients before they are clipped, None where nothing clips them.
    Returns the position after, and the same in words for a progress bar.
    """
    loss, zero, total = position.loss_sum / position.loss_steps, *_write_gates(run, gates, position)
    record = {"step": position.step, "kind": "train", "stage": stage, "loss": loss, **rates._asdict()}
    record |= {"norm": None if norm is None else float(norm)}
    run.log(record | {"gates_at_zero": zero, "gates": total})
    return replace(position, loss_sum=0.0, loss_steps=0), f"loss {loss:.3f}, gates at zero {zero}/{total}"


def log_gates(run: Run, state: TrainState, position: Position) -> None:
    """Append every gate's value to gates.jsonl."""
    _, gates = read_losses(run, [], gates_of(run, state))
    _write_gates(run, gates, position)


def _write_gates(run: Run, gates: Mapping[str, np.ndarray], position: Position) -> tuple[int, int]:
    """Append every gate's value; returns how many are zero, and how many there are."""
    if gates:
        run.log_gates(position.step, {module_of(name): g for name, g in gates.items()})
    return sum(int(np.count_nonzero(g == 0)) for g in gates.values()), sum(g.size for g in gates.values())


def validate(run: Run, state: TrainState, position: Position, stage: int) -> Position:
    """Log the scores of every validation split, and keep the parameters where they are the best and that is wanted."""
    for split, part in run.data.items():
        if split.startswith("validation"):
            found: dict[str, Any] = score(
                run.setup.labels, predict_logits(run.setup, state.params, part), expected_labels(part)
            )
            run.log({"step": position.step, "kind": "validation", "stage": stage, "split": split, **found})
            if split == run.selection:
                position = scored(position, found[run.setup.labels.metrics[0]])
    if run.config.train.keep_best and position.best_step == position.step:
        run.keep(run.out / BEST, state, position)
    return position
