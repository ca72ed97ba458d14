"""What a run has read: digests of its files, recorded when it begins and compared when it goes on.

The document `inputs.json` of a run directory.  A file has a name that does not change when folders move, such as
"model/tokenizer.json" or "task/train", and beside its digest the path it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from sora_ref.errors import printable, shown
from sora_ref.preconditions import require
from sora_ref.storage.documents import Whole, read_json
from sora_ref.storage.files import file_digest, write_json
from sora_ref.storage.regular import require_regular

INPUTS = "inputs.json"


class Input(msgspec.Struct, frozen=True):
    """A file as it was read: where it was, and the sha256 of its bytes."""

    path: str
    sha256: str


class Change(msgspec.Struct, frozen=True):
    """The digests of a file before and after it changed; None where it was not there."""

    was: str | None
    now: str | None


class Acceptance(msgspec.Struct, frozen=True):
    """From `step` on, a run was told to go on with these files as they are now."""

    step: Whole
    files: dict[str, Change]


class Inputs(msgspec.Struct, frozen=True):
    """All that a run has read, by name, and the changes of it that were accepted."""

    files: dict[str, Input]
    accepted: tuple[Acceptance, ...] = ()

    def changes(self, now: Mapping[str, Input]) -> dict[str, Change]:
        """The files that are other ones now, are gone, or have come."""
        digests = {name: (_digest(self.files.get(name)), _digest(now.get(name))) for name in (*self.files, *now)}
        return {name: Change(was, is_now) for name, (was, is_now) in digests.items() if was != is_now}

    def sentence(self, name: str, change: Change, now: Mapping[str, Input]) -> str:
        """What has become of one of the files."""
        if change.now is None:
            return f"{printable(self.files[name].path)}: gone, though the run began with it"
        if change.was is None:
            return f"{printable(now[name].path)}: new, for the run began without it"
        return f"{printable(now[name].path)}: not the file the run began with (its sha256 differs)"

    def accept(self, now: Mapping[str, Input], step: int) -> Inputs:
        """The same, with the files as they are now and the change recorded."""
        return Inputs(dict(now), (*self.accepted, Acceptance(step, self.changes(now))))


def digests(files: Mapping[str, Path]) -> dict[str, Input]:
    """The digests of those files that are there; SoRAError for one that cannot be read."""
    found = {}
    for name, path in files.items():
        if path.exists():
            require_regular(path, "a file to read")
            found[name] = Input(str(path), file_digest(path))
    return found


def require_unchanged(before: Mapping[str, Input], files: Mapping[str, Path]) -> None:
    """SoRAError, naming the file, unless all files still have the digests of before."""
    changed = Inputs(dict(before)).changes(digests(files))
    require(not changed, f"{', '.join(map(shown, changed))} changed while it was read: expected files that stay")


def write_inputs(folder: Path, inputs: Inputs) -> None:
    """Write the document into a run directory."""
    write_json(folder / INPUTS, msgspec.to_builtins(inputs))


def read_inputs(folder: Path) -> Inputs | None:
    """The document of a run directory; None where there is none; SoRAError where it is damaged."""
    path = folder / INPUTS
    return read_json(path, Inputs, "the files that the run has read") if path.exists() else None


def _digest(found: Input | None) -> str | None:
    return None if found is None else found.sha256
