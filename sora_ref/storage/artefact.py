"""A pinned file of the package registry: which one it is, and what is taken out of it."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from sora_ref.errors import SoRAError


@dataclass(frozen=True)
class Artefact:
    """One file of the registry, and what is taken out of it.

    ``members`` maps a file name in the cache folder to its name in the archive, ``digests`` to its sha256; ``inner``
    names an archive (tar.gz) inside a source distribution that holds them. ``size`` is the download's, in bytes.
    ``hub`` is the name by which the model is known to transformers.
    """

    key: str
    requirement: str
    filename: str
    sha256: str
    size: int
    source: Literal["wheel", "sdist"]
    licence: str
    cite: str
    members: Mapping[str, str]
    digests: Mapping[str, str]
    inner: str | None = None
    hub: str | None = None

    @property
    def package(self) -> str:
        """Name of the package without its version."""
        return self.requirement.partition("==")[0]


@contextmanager
def opened_members(artefact: Artefact, archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Open the archive and yield a function from a member's name to its bytes.

    That function raises SoRAError for a name that the archive has not.  Nothing is unpacked, installed or imported.
    """
    if artefact.source == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            yield lambda name: _found(artefact, name, wheel.open)
        return
    with tarfile.open(archive, "r:gz") as sdist:
        if artefact.inner is None:
            yield lambda name: _found(artefact, name, sdist.extractfile)
            return
        with (
            _found(artefact, artefact.inner, sdist.extractfile) as packed,
            tarfile.open(fileobj=packed, mode="r:gz") as inner,
        ):
            yield lambda name: _found(artefact, name, inner.extractfile)


def _found(artefact: Artefact, name: str, extract: Callable[[str], IO[bytes] | None]) -> IO[bytes]:
    try:
        member = extract(name)
    except KeyError:
        member = None
    if member is None:
        raise SoRAError(f"{artefact.filename} has no file {name}: expected it in {artefact.requirement}")
    return member
