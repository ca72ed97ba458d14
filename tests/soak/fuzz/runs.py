"""A run directory that is resumed: its logs, its documents and its checkpoints, damaged."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from sora_ref.run.config import load_config
from sora_ref.run.summary import read_summary, summary_lines
from sora_ref.run.training import train
from tests.soak.fuzz import octets, trees
from tests.soak.fuzz.documents import json_document, toml
from tests.soak.fuzz.format import Files, Format, some
from tests.soak.fuzz.tensors import sealed
from tests.soak.ground import Ground

LOGS = ("metrics.jsonl", "gates.jsonl")


def log(rng: random.Random, data: bytes) -> bytes:
    """A log with a line changed, missing, doubled, moved or cut."""
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[place])
        case 2:
            lines.insert(place, octets.damaged(rng, lines[place]))
        case 3:
            rng.shuffle(lines)
        case _:
            try:
                lines[place] = trees.to_json(trees.changed(rng, json.loads(lines[place])))
            except (ValueError, TypeError, RecursionError):
                lines[place] = octets.damaged(rng, lines[place])
    return b"\n".join(lines)


def run_folder(ground: Ground) -> Path:
    """A run of the scheduler that lacks its last step, by a summary that was never written."""
    folder = ground.folder / "formats" / "run"
    if not folder.exists():
        shutil.copytree(ground.wholes["scheduler"].folder, folder)
        (folder / "summary.json").unlink()
    return folder


def _damage_run(rng: random.Random, files: Files) -> Files:
    name = rng.choice(sorted(files))
    data = files[name]
    if name in LOGS:
        return {name: some(rng, data, log)}
    if name.endswith(".safetensors"):
        return {name: some(rng, data, sealed)}
    return {name: some(rng, data, {".json": json_document, ".toml": toml}.get(Path(name).suffix, octets.damaged))}


def _resume(folder: Path) -> Any:
    return train(load_config(folder / "config.toml", {}), folder, resume=True, quiet=True)


def _resume_command(folder: Path, out: Path) -> list[str]:
    return ["train", "--resume", "--out", str(folder), "--quiet"]


def _complete(ground: Ground) -> Path:
    return ground.wholes["scheduler"].folder


def _damage_summary(rng: random.Random, files: Files) -> Files:
    return {"summary.json": some(rng, files["summary.json"], json_document)}


def _read_summary(folder: Path) -> Any:
    found = read_summary(folder)
    return summary_lines(found) if found is not None else None


FORMATS = (
    Format("run directory", run_folder, _damage_run, _resume, slice=20, console=_resume_command, fresh=True),
    Format("summary", _complete, _damage_summary, _read_summary, slice=600, console=_resume_command),
)
