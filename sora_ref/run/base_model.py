"""The base model's folder: one on this disk, one that is fetched, or one on the hub."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from sora_ref.errors import SoRAError, printable
from sora_ref.models import listed_titles
from sora_ref.run.artefacts import ARTEFACTS, download
from sora_ref.run.config import Config
from sora_ref.run.hub import hub_folder, pinned, repository
from sora_ref.run.say import Say
from sora_ref.storage.files import file_digest
from sora_ref.storage.regular import absolute


def model_folder(path: str, say: Say | None = None) -> Path:
    """The folder of a model, fetched where `path` is the name of one to fetch, or of one on the hub; else SoRAError."""
    if _is_fetched(path):
        return download(path, say=say)
    folder = absolute(path)
    if folder.is_dir():
        return folder
    if path not in ARTEFACTS and not folder.exists() and repository(path):
        return hub_folder(path, say)
    named = ", ".join(key for key in ARTEFACTS if _is_fetched(key))
    expected = f"a Hugging Face folder of {listed_titles()}, a name on its hub, or one of {named}"
    raise SoRAError(f"model {printable(path)}: no such folder: expected {expected}")


def _is_fetched(path: str) -> bool:
    """Whether this is the name of a model that is fetched from the package registry."""
    return path in ARTEFACTS and ARTEFACTS[path].source == "wheel"


def with_pinned_model(config: Config, say: Say | None = None) -> Config:
    """The configuration with the commit of a model from the hub, which may be another tomorrow under the same name."""
    path = config.model.path
    if path in ARTEFACTS or absolute(path).exists():
        return config
    return replace(config, model=replace(config.model, path=pinned(path, say)))


def base_digest(folder: Path) -> str:
    """sha256 of the weights file of a model's folder."""
    return file_digest(folder / "model.safetensors")
