"""What an experimenter uses: data, training, checkpoints, pictures; `train` and `load` in Python.

    import sora_ref.run
    summary = sora_ref.run.train("runs/mine", {"task.name": "movies", "train.epochs": 2, "gate.lr": 4.0})
    model = sora_ref.run.load("runs/mine")
    model.predict(["a gorgeous, witty film"])

Both import what they need when they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sora_ref.run.notebook import Model

__all__ = ["load", "train"]


def train(
    out: str | Path,
    keys: Mapping[str, Any] = MappingProxyType({}),
    *,
    config: str | Path | None = None,
    resume: bool | Literal["if-any"] = False,
    accept_changed_data: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train into the run directory `out` and return the summary, as `sora-ref train` does.

    keys:   dotted keys of a configuration with their values, put on top of the file `config`, or of the defaults;
            docs/examples/run.toml has them all.
    resume: True goes on with the run in `out`, under its own configuration where neither keys nor config is given;
            "if-any" begins one where there is none.
    accept_changed_data: go on although tables or files of the model are other ones now, and record that in the run.
    quiet:  no progress on standard error.

    Raises SoRAError for bad input, and `sora_ref.run.interrupt.Interrupted` when Ctrl-C (the stop button of a notebook)
    stopped it after a checkpoint: call it again with resume=True.  In a thread other than the main one it runs to its
    end.
    """
    from sora_ref.run.notebook import train as run

    return run(Path(out), keys, None if config is None else Path(config), resume, accept_changed_data, quiet)


def load(run: str | Path, *, stage: int | None = None) -> Model:
    """The trained model of a run directory, or of a pruned or merged folder, for predictions.

    stage: of the sparsifying scheduler; the end of the run by default.  Raises SoRAError where there is none.
    """
    from sora_ref.run.notebook import load as read

    return read(Path(run), stage)
