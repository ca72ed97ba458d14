"""README.md of a shipped folder: the hub's model-card header, how to load it, who can read it; and labels.json.

Names from outside (base model, labels, licence, notes) stand in the header as JSON strings, which YAML reads as they
are, and in the text as code spans, escaped.  None stands in the Python, which reads them from the JSON beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from sora_ref.models import Architecture
from sora_ref.peft.format import HEAD_FILE, LABELS_FILE, LOADER_FILE, Layout
from sora_ref.preconditions import require

Problem = Literal["single_label_classification", "regression"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)

LEAST_PEFT = "0.13"
_MEASURED = "measured with 0.13.2, 0.14.0 and 0.21.2"


class Labels(NamedTuple):
    """What the outputs mean: the names of the classes in their order, or one value where there are none.

    max_length: tokens that a text is cut to; None for the tokenizer's own limit.
    """

    names: tuple[str, ...]
    problem: Problem
    max_length: int | None = None

    def as_json(self) -> str:
        """The contents of labels.json, in the terms of transformers' configurations."""
        facts = {
            "problem_type": self.problem,
            "id2label": {str(row): name for row, name in enumerate(self.names)},
            "max_length": self.max_length,
        }
        return json.dumps(facts, indent=2, ensure_ascii=False) + "\n"


def labels_of(outputs: int, names: Sequence[str], max_length: int | None) -> Labels:
    """Labels of so many outputs; transformers' LABEL_0, LABEL_1 … where none are named, and a value where outputs is 1.

    Raises SoRAError where there are more or fewer names than outputs, or two are equal.
    """
    if not names:
        if outputs == 1:
            return Labels(("value",), "regression", max_length)
        names = [f"LABEL_{row}" for row in range(outputs)]
    require(len(names) == outputs, f"{len(names)} labels for {outputs} outputs: expected one for each")
    require(len(set(names)) == len(names), "labels repeat: expected a name of its own for each output")
    return Labels(tuple(names), "single_label_classification", max_length)


def header(
    *, base_model: str | None, library: str, pipeline: str, licence: str | None, tags: Sequence[str] = ()
) -> str:
    """The model card's header; a base model only where it can be a name on the hub, and licence unknown if None."""
    lines = [f"base_model: {_yaml(base_model)}"] if base_model and _HUB_NAME.fullmatch(base_model) else []
    lines += [
        f"library_name: {library}",
        f"license: {_yaml(licence or 'unknown')}",
        f"pipeline_tag: {pipeline}",
        "tags:",
        *(f"- {tag}" for tag in ("sora", *tags)),
    ]
    return "---\n" + "\n".join(lines) + "\n---\n"


def code(text: str) -> str:
    """Any text as one Markdown code span: on one line, printable, between more backticks than it has."""
    plain = _one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    return f"{fence}{plain}{fence}" if fence == "`" else f"{fence} {plain} {fence}"


def label_lines(labels: Labels) -> str:
    """What each output is, as a list."""
    if labels.problem == "regression":
        return "One output: a value, the regression's own.\n"
    return "".join(f"- output {row}: {code(name)}\n" for row, name in enumerate(labels.names))


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _yaml(text: str) -> str:
    """A string that YAML reads as it is: JSON's, with whatever is no plain character escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escape(c) for c in quoted)


def _escape(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"


_LOAD = """\
```python
from load_with_peft import Classifier  # run in this folder

model = Classifier()  # or Classifier("path/to/the/base/model")
predictions = model.predict(["a fine film", "a dull one"])  # of pairs: model.predict(firsts, seconds)
```
"""

_WHOLE = f"""\
The classifier, and whatever else was trained in full, is inside the adapter (`modules_to_save`).  PEFT alone loads it:

```python
import json
from pathlib import Path

from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification

config = PeftConfig.from_pretrained(".")  # "." is this folder
base, which = config.base_model_name_or_path, config.revision or "main"
outputs = len(json.loads(Path("{LABELS_FILE}").read_text(encoding="utf-8"))["id2label"])
model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=outputs, revision=which)
model = PeftModel.from_pretrained(model, ".").eval()
```
"""

_BESIDE = f"""\
The adapter belongs to the bare model.  The trained head stands beside it in `{HEAD_FILE}`; PEFT does not know it, but
`{LOADER_FILE}` does.
"""
_PIPELINE: Mapping[Layout, str] = {
    "compact": '`pipeline("text-classification")` refuses this folder, for the head is not in the adapter.\n',
    "folded": '`pipeline("text-classification")` refuses this folder, for the head is not in the adapter.\n',
    "uniform": '**Not `pipeline("text-classification")`**, which would draw a classifier at random.\n',
}

_LAYOUTS: Mapping[Layout, str] = {
    "compact": "each module has its own rank and scale (`rank_pattern`, `alpha_pattern`)",
    "uniform": "every module is padded with zeros to one rank, under one `lora_alpha`",
    "folded": "each module has its own rank, under one `lora_alpha`; B carries the scales",
}

# What a consumer's LoRA loader reads, whatever models it runs.
_READERS = f"""\
| reader | layout | a head inside the adapter |
|---|---|---|
| PEFT from {LEAST_PEFT} on ({_MEASURED}), transformers | each | yes |
| vLLM | `uniform`: it reads `r` and `lora_alpha`, no patterns | refused: `modules_to_save` |
| llama.cpp | `uniform`, `folded`: it takes `lora_alpha` over each module's own rank | stops its converter |
| TGI, LoRAX | `uniform`: one `lora_alpha / r` for all | not tried |
"""


def adapter_card(
    *,
    architecture: Architecture,
    base_model: str,
    local: bool,
    whole: bool,
    saved: Sequence[str],
    layout: Layout,
    dtype: str,
    labels: Labels,
    ranks: Mapping[str, int],
    licence: str | None,
    notes: Sequence[str],
) -> str:
    """README.md of an exported adapter.

    local:  base_model is no name on a hub, but that of a folder.
    whole:  the head is inside the adapter.  saved: every module in full in it.  ranks: components kept, by module.
    """
    carriers = sum(rank > 0 for rank in ranks.values())
    rows = "\n".join(f"| `{module}` | {rank} |" for module, rank in ranks.items())
    task = "text-classification" if whole else "feature-extraction"
    top = header(
        base_model=None if local else base_model, library="peft", pipeline=task, licence=licence, tags=("lora",)
    )
    base = f"- Base model: {code(base_model)}"
    if local:
        base += ", which is no name on a hub.  Give the loader the path of that model"
    extra = "".join(f"- {_one_line(note)}\n" for note in notes)
    suits = _suits(layout, saved)
    return f"""\
{top}
# A LoRA adapter, trained with SoRA and pruned

{base}
- Layout `{layout}`: {_LAYOUTS[layout]}
- Numbers: A and B in {dtype}
- Needs PEFT {LEAST_PEFT} or later ({_MEASURED})
{extra}
The gates are folded into B; what is left is a plain LoRA.

{_LOAD}
`predict` gives the names of `{LABELS_FILE}`:

{label_lines(labels)}
{_WHOLE if whole else _BESIDE + _PIPELINE[layout]}
## Who can read it

{_READERS}
This folder has layout `{layout}` and {suits}.  Whether a server runs {architecture.title} at all is for its own
documentation to say.

## Ranks

Components kept: {sum(ranks.values())} in {carriers} of {len(ranks)} modules.  Modules at rank 0 carry no adapter.

| module | rank |
|---|---|
{rows}
"""


def _suits(layout: Layout, saved: Sequence[str]) -> str:
    if not saved:
        return "LoRA matrices alone in its adapter"
    return f"{len(saved)} modules in full in its adapter; `sora-ref export --without-head` leaves them out"


def merged_card(
    *, architecture: Architecture, base_model: str | None, whole: bool, labels: Labels, licence: str | None
) -> str:
    """README.md of a merged folder.

    base_model: its name on the hub, or None.
    whole:      it is transformers' own classifier; else the bare model, its head in a file beside it.
    """
    task = "text-classification" if whole else "feature-extraction"
    top = header(base_model=base_model, library="transformers", pipeline=task, licence=licence)
    return f"""\
{top}
# A {architecture.title}, trained with SoRA and merged

The adapters are merged into the weights; nothing of SoRA is left to load.

{_MERGED_WHOLE.format(max_length=labels.max_length) if whole else _MERGED_BESIDE}
{label_lines(labels)}"""


_MERGED_WHOLE = """\
```python
from transformers import pipeline

classify = pipeline("text-classification", ".", truncation=True, max_length={max_length})  # "." is this folder
predictions = classify(["a fine film", "a dull one"])  # of pairs: [{{"text": first, "text_pair": second}}]
```

`config.json` names the outputs:
"""

_MERGED_BESIDE = f"""\
```python
from load_with_transformers import Classifier  # run in this folder

model = Classifier()
predictions = model.predict(["a fine film", "a dull one"])  # of pairs: model.predict(firsts, seconds)
```

**Not `pipeline("text-classification")`**: the trained head is a linear map of the mean of the hidden states, which
transformers has no class for.  It stands in `{HEAD_FILE}`.  `config.json` names no classes, so that the pipeline, which
would draw a classifier at random, fails.  The outputs are:
"""
