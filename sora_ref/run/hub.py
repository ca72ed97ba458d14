"""Models by their names on the Hugging Face hub: `org/name`, `name`, either with `@revision`.

huggingface_hub downloads them into its own cache and finds them there again; its own settings (HF_HOME, HF_ENDPOINT,
HF_HUB_OFFLINE, a token) hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sora_ref.errors import SoRAError, brief, printable
from sora_ref.preconditions import require
from sora_ref.run.tokens import NAMES

FILES = ("config.json", "model.safetensors", *NAMES)

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?P<repository>(?:{_PART}/)?{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,99}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository(name: str) -> str | None:
    """The repository that a name means, without its revision; None where no model of the hub can be called so."""
    found = _NAME.fullmatch(name)
    return found["repository"] if found else None


def revision(name: str) -> str | None:
    """The revision that stands behind a repository's name; None where there is none, or no such name."""
    found = _NAME.fullmatch(name)
    return found["revision"] if found else None


def hub_folder(name: str, say: Callable[[str], None] | None = None) -> Path:
    """The folder of a model of the hub, in huggingface_hub's cache; what is not there yet is downloaded.

    Only the files that are read here are taken.  Raises SoRAError where the hub has no such model or revision, cannot
    be reached, or has the model without a model.safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars, logging

    found = _NAME.fullmatch(name)
    if found is None:
        raise SoRAError(f"model {printable(name)}: no name on the Hugging Face hub: expected org/name or name@revision")
    disable_progress_bars()
    logging.set_verbosity_error()
    if say is not None:
        say(f"looking for {name} on the Hugging Face hub")
    try:
        folder = Path(snapshot_download(found["repository"], revision=found["revision"], allow_patterns=list(FILES)))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise SoRAError(
            f"model {name}: no such folder, and no such public model on the Hugging Face hub: expected a folder, or a "
            f"name there (a private model needs `hf auth login`)"
        ) from error
    except Exception as error:  # of the hub's, of its network library and of the disk, in many classes
        raise SoRAError(
            f"model {name}: no such folder, and not in the cache of the Hugging Face hub, which gave no answer "
            f"({brief(str(error.__cause__ or error))}): expected a folder, or a network; "
            f"`hf download {_arguments(found)}` fetches it"
        ) from error
    require(
        (folder / "model.safetensors").is_file(),
        f"model {name}: the Hugging Face hub has it without a model.safetensors: expected one; after "
        f"`hf download {_arguments(found)} --local-dir F`, `--model F` tells how to make one of what there is",
    )
    return folder


def pinned(name: str, say: Callable[[str], None] | None = None) -> str:
    """The same name with the commit that it means now, so that it means the same for ever."""
    found = _NAME.fullmatch(name)
    if found is None or (found["revision"] and _COMMIT.fullmatch(found["revision"])):
        return name
    return f"{found['repository']}@{hub_folder(name, say).name}"


def _arguments(found: re.Match[str]) -> str:
    revision = found["revision"]
    return found["repository"] + (f" --revision {revision}" if revision else "")
