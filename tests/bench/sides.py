"""What our build is measured against: where the process of each side begins, and why a side is missing.

"before" is the build of before the compiled kernels.  Its whole tree, its own benchmark with it, is taken out of git,
and its processes import nothing but that tree; they speak the protocol of `child` in the words it had then.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from job import Job, Side

COMMIT = "1603099e2aeb656ec9582dae21a2819fc8dfb7da"
ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "build" / f"before-{COMMIT[:7]}"
NAMES: Mapping[Side, str] = {
    "ours": "ours",
    "torch": "torch",
    "compile": "torch.compile",
    "before": "before",
    "peft": "PEFT",
}
_UNKNOWN_BEFORE = ("side", "kernels")  # it had no "before", and one set of kernels beside the reference


def missing(side: Side) -> str | None:
    """Why this side cannot run here, as the rest of a sentence; None where it can."""
    if side == "before":
        return export(BEFORE)
    return _no_compiler() if side == "compile" else None


def start(side: Side) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a side's process."""
    tree, env = ROOT, dict(os.environ)
    if side == "before":
        tree = BEFORE
        env["PYTHONPATH"] = str(tree)
    if side == "compile":
        env.setdefault("TORCHINDUCTOR_CACHE_DIR", str(ROOT / "build" / "inductor"))
    return [sys.executable, str(tree / "tests" / "bench" / "child.py")], env


def words(job: Job) -> dict[str, Any]:
    """A job as its side's process is told of it."""
    told = asdict(job)
    if job.side == "before":
        told = {name: value for name, value in told.items() if name not in _UNKNOWN_BEFORE}
    return told


def export(folder: Path) -> str | None:
    """Write the tree of COMMIT into a folder, whole or not at all, once; why not, where git has not got it."""
    if folder.is_dir():
        return None
    try:
        found = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"git has no commit {COMMIT[:7]} here, as in a copy without its history"
    half = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", str(half)], input=found.stdout, check=True)
    half.rename(folder)
    return None


def _no_compiler() -> str | None:
    """What inductor lacks to compile its kernels for the CPU: the compiler that it would call, or Python's header."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler = shlex.split(os.environ.get("CXX", usual))[0]
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler {compiler}"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "there is no Python.h to compile against"
    return None
