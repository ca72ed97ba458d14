"""The files that a run reads, by names that stay when folders move."""

from __future__ import annotations

from pathlib import Path

from sora_ref.run.base_model import model_folder
from sora_ref.run.config import Config
from sora_ref.run.data import task_files
from sora_ref.run.say import Say
from sora_ref.run.tokens import tokenizer_files

WEIGHTS = "model/model.safetensors"


def model_files(folder: Path) -> dict[str, Path]:
    """What is read of a model folder: its configuration, its weights and all of its tokeniser."""
    paths = [folder / "config.json", folder / "model.safetensors", *(folder / name for name in tokenizer_files(folder))]
    return {f"model/{path.name}": path for path in paths}


def input_files(config: Config, say: Say | None = None) -> dict[str, Path]:
    """Every file that a run with this configuration reads; what has a name to be fetched by is fetched first."""
    task = config.task
    tables = task_files(
        task.name,
        path=None if task.path is None else Path(task.path),
        files={split: Path(path) for split, path in task.files.items()},
        say=say,
    )
    return model_files(model_folder(config.model.path, say)) | {f"task/{name}": path for name, path in tables.items()}
