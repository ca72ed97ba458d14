"""What stands behind `sora_ref.run.train` and `sora_ref.run.load`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sora_ref.preconditions import require
from sora_ref.run import training
from sora_ref.run.config import load_config
from sora_ref.run.given import examples_of_texts
from sora_ref.run.predict import predict_records
from sora_ref.run.trained import Loaded, load_trained


@dataclass(frozen=True)
class Model:
    """A trained model with its tokenizer and its labels."""

    loaded: Loaded

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes; none for regression."""
        return self.loaded.setup.labels.names

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """One record a text: id (its number), prediction; for classes also probability and every class's.

        pairs: the second texts of a model that was trained on pairs.  Raises SoRAError for one string in place of
        several, for lists of different lengths, and for pairs where there were none in training, or the reverse.
        """
        for name, given in (("texts", texts), ("pairs", pairs or ())):
            several = not isinstance(given, str) and all(isinstance(text, str) for text in given)
            require(several, f"{name} is {type(given).__name__}: expected a list of strings")
        examples = examples_of_texts(self.loaded.setup.config, texts, pairs or ())
        return predict_records(self.loaded, examples)


def train(
    out: Path, keys: Mapping[str, Any], config: Path | None, resume: bool | Literal["if-any"], accept: bool, quiet: bool
) -> dict[str, Any]:
    """Train as `sora_ref.run.train` says."""
    if resume is True and config is None and not keys and (out / "config.toml").is_file():
        config = out / "config.toml"

    def say(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr)

    return training.train(
        load_config(config, keys), out, resume=resume, accept_changed_data=accept, quiet=quiet, say=say
    )


def load(run: Path, stage: int | None) -> Model:
    """Read as `sora_ref.run.load` says."""
    return Model(load_trained(run, stage=stage))
