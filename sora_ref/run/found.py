"""What lies in a folder that is to be trained in."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path

from sora_ref.run.checkpoint import checkpoints
from sora_ref.run.input_digests import INPUTS
from sora_ref.run.trained import ADAPTER
from sora_ref.storage.files import name_being_written
from sora_ref.storage.lock import LOCK

# What a run writes before its first checkpoint, in this order; nothing of it is worth keeping without one.
OUTSET = ("versions.json", INPUTS, "config.toml", "memorization_ids.json", "gates.jsonl", "metrics.jsonl")

# Every file that a run writes whole.
_WRITTEN = re.compile(
    r"config\.toml|(versions|inputs|summary|memorization_ids|mlflow)\.json|(metrics|gates)\.jsonl|(ranks|gates)\.png"
    r"|(best|(step|stage)-[0-9]+)\.safetensors"
)

_KINDS = (
    ("adapter_config.json", "holds a PEFT adapter"),
    ("config.json", "holds a model, such as merge writes"),
    (ADAPTER, "holds a pruned adapter"),
    ("config.toml", "has a configuration and no checkpoint"),
    ("checkpoints", "has checkpoints and no config.toml"),
)


class Found(Enum):
    """NOTHING but scraps of a killed process; an OUTSET without a first checkpoint; a RUN; or something ELSE."""

    NOTHING = "nothing"
    OUTSET = "outset"
    RUN = "run"
    ELSE = "else"


def is_scrap(path: Path) -> bool:
    """Whether a killed process left this file behind while it wrote one of a run's."""
    name = name_being_written(path)
    return name is not None and _WRITTEN.fullmatch(name) is not None


def sweep(out: Path) -> None:
    """Remove such scraps from a run directory, its checkpoints and its stages."""
    for folder in (out, out / "checkpoints", out / "stages"):
        for path in folder.glob(".*"):
            if is_scrap(path):
                path.unlink()


def look(out: Path) -> Found:
    """What is in `out`, an empty or missing folder being NOTHING; what is no folder is something ELSE."""
    if not out.is_dir():
        return Found.ELSE if out.exists() else Found.NOTHING
    names = {path.name for path in out.iterdir() if path.name != LOCK and not is_scrap(path)}
    if not names:
        return Found.NOTHING
    if "config.toml" in names and (checkpoints(out) or "summary.json" in names):
        return Found.RUN
    return Found.OUTSET if _is_outset(out, names) else Found.ELSE


def refusal(out: Path, found: Found) -> str:
    """Why there is no run in `out` to go on with."""
    if found is Found.NOTHING:
        return f"{out}: no run there: expected the directory of one to go on with"
    if found is Found.OUTSET:
        return f"{out}: stopped before its first checkpoint, so there is nothing to go on with: train without --resume"
    kind = next((kind for name, kind in _KINDS if (out / name).exists()), "is no run directory")
    return f"{out}: {kind}: expected the directory of a run to go on with"


def clear_outset(out: Path) -> None:
    """Remove an OUTSET, what makes it one last, so that a new run finds an empty folder."""
    for path in (out / name for name in reversed(OUTSET)):
        if path.exists():
            path.unlink()


def _is_outset(out: Path, names: set[str]) -> bool:
    """Only files of the outset, the first of them included, which no one but a run writes; no step logged yet."""
    ours = OUTSET[0] in names and names <= {*OUTSET, "checkpoints"}
    kept = [path for path in (out / "checkpoints").glob("*") if not is_scrap(path)]
    log = out / "metrics.jsonl"
    return ours and not kept and (not log.exists() or log.stat().st_size == 0)
