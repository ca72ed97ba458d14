"""A BERT of a few kB with a tokeniser, a task with a rule one can learn, and runs on them that take milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sora_ref import training_step
from sora_ref.methods import METHODS
from sora_ref.models.bert import BERT
from sora_ref.models.encoder import EncoderConfig
from sora_ref.run import setup
from sora_ref.run.checkpoint import Trained, checkpoints, read_checkpoint
from sora_ref.run.config import Config, load_config
from sora_ref.run.say import Say
from sora_ref.run.training import Resume, train

GOOD = ("good", "great", "fine", "lovely", "superb", "warm", "bright", "funny")
BAD = ("bad", "poor", "dull", "awful", "weak", "cold", "grim", "boring")
PLAIN = ("a", "the", "this", "film", "plot", "cast", "song", "story", "is", "was", "very", "quite", "so", "and", "but")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = (*SPECIAL, *PLAIN, *GOOD, *BAD)

CONFIG = EncoderConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    type_vocab_size=2,
)
MODULES = 12
RANK = 3
SIZES = {"train": 40, "validation": 12, "test": 12}
EPOCH = 5  # steps of one
SPLITS = tuple(SIZES)

Row = Mapping[str, Any]


def write_model(folder: Path, *, pooler: bool = False, seed: int = 0, config: EncoderConfig = CONFIG) -> Path:
    """A Hugging Face folder: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    shapes = BERT.shapes(config)
    if pooler:
        d = config.hidden_size
        shapes |= {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    params = {name: 0.4 * rng.standard_normal(shape) for name, shape in shapes.items()}
    params |= {name: 1 + value for name, value in params.items() if name.endswith("LayerNorm.weight")}
    words, direction = params["embeddings.word_embeddings.weight"], rng.standard_normal(config.hidden_size)
    for sign, feeling in ((1, GOOD), (-1, BAD)):  # pretrained, as it were: words of one feeling lie together
        words[[VOCABULARY.index(word) for word in feeling]] += sign * direction
    save_file({name: value.astype(np.float32) for name, value in params.items()}, folder / "model.safetensors")
    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "gelu", **sizes}))
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path, vocabulary: Sequence[str] = VOCABULARY) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: place for place, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, ids[word]) for word in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def change_weights(folder: Path, changes: Mapping[str, np.ndarray | None]) -> None:
    """Replace tensors of model.safetensors; None takes one out."""
    tensors: dict[str, Any] = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, folder / "model.safetensors")


def make_rows(split: str) -> list[Row]:
    """Sentences of 2 to 9 words with one word of feeling, which is the label; half of each kind."""
    rng = np.random.default_rng([SPLITS.index(split), 7])
    rows: list[Row] = []
    for k in range(SIZES[split]):
        words = rng.choice(PLAIN, rng.integers(1, 9)).tolist()
        feeling = (BAD, GOOD)[k % 2][rng.integers(len(GOOD))]
        words.insert(int(rng.integers(len(words) + 1)), feeling)
        rows.append({"name": f"{split}-{k}", "text": " ".join(words), "label": ("bad", "good")[k % 2], "rating": k % 2})
    return rows


def write_jsonl(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tsv(path: Path, rows: Sequence[Row], separator: str = "\t") -> Path:
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    path.write_text("".join(separator.join(map(str, line)) + "\n" for line in lines))
    return path


def write_task(folder: Path, splits: Sequence[str] = SPLITS) -> dict[str, str]:
    """The task's files by split: JSONL, TSV and CSV, one of each."""
    folder.mkdir(parents=True, exist_ok=True)
    suffix = {"train": "jsonl", "validation": "tsv", "test": "csv"}
    files = {}
    for split in splits:
        path, rows = folder / f"{split}.{suffix[split]}", make_rows(split)
        if suffix[split] == "jsonl":
            write_jsonl(path, rows)
        else:
            write_tsv(path, rows, {"tsv": "\t", "csv": ","}[suffix[split]])
        files[split] = str(path)
    return files


def make_keys(folder: Path, **model: Any) -> dict[str, Any]:
    """A configuration of two epochs on a tiny model and task written into `folder`."""
    return base_keys(write_model(folder / "tiny", **model), write_task(folder / "task"))


def base_keys(model: Path, files: Mapping[str, str]) -> dict[str, Any]:
    """Every kind of dropout on, several microbatches a batch, logs and checkpoints out of step with each other.

    NumPy's kernels, which need not be compiled: the compiled ones have tests of their own.
    """
    return {
        "kernels": "numpy",
        "model.path": str(model),
        "model.max_length": 12,
        "task.name": "table",
        "task.files": dict(files),
        "task.text": "text",
        "task.label": "label",
        "task.id": "name",
        "adapter.r": RANK,
        "adapter.alpha": 6.0,
        "adapter.dropout": 0.1,
        "adapter.gate": "normal",
        "gate.rule": "adamw-xi",
        "gate.strength": 0.02,
        "train.epochs": 2,
        "train.score_test": True,
        "train.batch": 8,
        "train.lr": 2e-2,
        "train.weight_decay": 0.01,
        "train.hidden_dropout": 0.1,
        "train.attention_dropout": 0.1,
        "train.microbatch_tokens": 40,
        "train.bucket_batches": 2,
        "train.log_every": 2,
        "train.checkpoint_every": 3,
    }


SCHEDULE: dict[str, Any] = {
    "train.epochs": 1,
    "schedule.kind": "linear",
    "schedule.stop": 0.06,
    "schedule.stages": 3,
    "schedule.epochs": 1,
    "schedule.memorization_examples": 9,
}


def make_config(keys: Mapping[str, Any], **changes: Any) -> Config:
    """The configuration of these keys; `train__lr` stands for train.lr."""
    return load_config(None, {**keys, **{key.replace("__", "."): value for key, value in changes.items()}})


def run_once(
    out: Path,
    keys: Mapping[str, Any],
    *,
    resume: Resume = False,
    accept: bool = False,
    say: Say | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Train to the end.  Pictures, most of a tiny run's time, are left out; `test_pictures` draws them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_ranks", "draw_gates"):
            patch.setattr(f"sora_ref.run.summary.{name}", lambda *_: None)
        config = make_config(keys, **changes)
        return train(config, out, resume=resume, accept_changed_data=accept, quiet=True, say=say)


@contextmanager
def killed_at(step: int) -> Iterator[None]:
    """The n-th training step is never made."""
    real, calls = training_step, list[int]()

    def dies(*args: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == step:
            raise BrokenPipeError("killed")
        return real(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch_step(patch, dies)
        yield


def patch_step(patch: pytest.MonkeyPatch, step: Callable[..., Any]) -> None:
    """Every method makes this step instead of its own."""
    changed = {name: replace(method, step=step) for name, method in METHODS.items()}
    patch.setattr(setup, "METHODS", changed)


def interrupted(run: Path, keys: Mapping[str, Any], **changes: Any) -> Path:
    """A run with a checkpoint of step 3 and no more."""
    with killed_at(5), pytest.raises(BrokenPipeError):
        run_once(run, keys, **changes)
    return run


def last(run: Path) -> Trained:
    return read_checkpoint(checkpoints(run)[-1])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in lines(run / "metrics.jsonl") if record["kind"] == kind]


def arrays_of(trained: Trained) -> dict[str, bytes]:
    """Every number of a checkpoint, as bytes."""
    found = {f"params/{name}": array.tobytes() for name, array in trained.params.items()}
    for name, (m, v) in (trained.moments or {}).items():
        found |= {f"m/{name}": m.tobytes(), f"v/{name}": v.tobytes()}
    return found


def outcome(run: Path) -> dict[str, Any]:
    """All that a run ends with but its seconds: parameters and moments, logs, stages, summary, and what was chosen."""
    summary = json.loads((run / "summary.json").read_text())
    del summary["seconds"]
    texts = {
        name: (run / name).read_bytes()
        for name in ("metrics.jsonl", "config.toml", "versions.json", "inputs.json", "memorization_ids.json")
        if (run / name).exists()
    }
    logged = lines(run / "gates.jsonl") if (run / "gates.jsonl").exists() else []
    stages = {path.name: arrays_of(read_checkpoint(path)) for path in sorted((run / "stages").glob("stage-*"))}
    return {
        "numbers": arrays_of(last(run)),
        "t": last(run).t,
        "summary": summary,
        "stages": stages,
        "gates": logged,
        **texts,
    }


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def copy_run(run: Path, target: Path) -> Path:
    return Path(shutil.copytree(run, target))


def flags(config: Mapping[str, Any]) -> list[str]:
    """The keys as `--set` of the command line."""
    found = []
    for key, value in config.items():
        text = _toml(value)
        found += ["--set", f"{key}={text}"]
    return found


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}


def sora_ref(*arguments: str, code: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real console script, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "sora_ref.cli.main", *arguments],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **environment},
        check=False,
        timeout=60,
    )
    if code is not None:
        assert done.returncode == code, done.stderr
    return done
