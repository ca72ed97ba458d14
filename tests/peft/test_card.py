"""README and labels of shipped folders: YAML that means what was given, and Python that no name can change."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora_ref.errors import SoRAError
from sora_ref.linear import SoRA
from sora_ref.models import HeadName
from sora_ref.models.bert import BERT
from sora_ref.peft import export_adapter, loaders
from sora_ref.peft.card import code, header, labels_of, merged_card

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'sora_ref[oracles]'")

HOSTILE = (
    'a"; import os; os.abort() #',
    "a'b",
    '"""\nimport os\n"""',
    "a\n---\nlicense: mit\n",
    "```\n# new\n```",
    "\\",
    "a: b #c",
    "{x}{{y}}",
    "\x1b[31mred\u202e",
    "\x85\u2028\U0001f600\ufffe",
)
QUERY = "encoder.layer.1.attention.self.query"
heads = pytest.mark.parametrize("head", ["cls", "mean"])


def export(folder: Path, head: HeadName, **others: Any) -> Path:
    adapter = SoRA(np.ones((1, 3)), np.ones(1), np.ones((3, 1)), 2.0)
    saved = {"classifier.weight": np.eye(2, 3), "classifier.bias": np.zeros(2)}
    export_adapter(
        folder,
        {QUERY: adapter},
        saved,
        architecture=BERT,
        head=head,
        layout="compact",
        **{"base_model": "base", **others},
    )
    return folder


def front_matter(text: str) -> Any:
    """The header as the hub reads it: what stands between the first two lines of three dashes."""
    assert text.startswith("---\n")
    return yaml.safe_load(text[4:].partition("\n---\n")[0])


def python_of(text: str) -> list[str]:
    return re.findall("^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@heads
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_name_changes_python_or_what_the_header_says(tmp_path: Path, head: HeadName, hostile: str) -> None:
    plain = export(tmp_path / "plain", head, labels=["x", "y"], licence="apache-2.0")
    given = {"base_model": hostile, "labels": [hostile, "y"], "licence": hostile, "notes": [hostile]}
    folder = export(tmp_path / "hostile", head, **given)
    assert (folder / "load_with_peft.py").read_bytes() == (plain / "load_with_peft.py").read_bytes()
    texts = [(f / "README.md").read_text(encoding="utf-8") for f in (plain, folder)]
    assert python_of(texts[0]) == python_of(texts[1]) != []
    facts = [front_matter(text) for text in texts]
    del facts[0]["base_model"]
    assert facts[1] == {**facts[0], "license": hostile}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == hostile
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8"))["id2label"] == {"0": hostile, "1": "y"}
    assert len(texts[1].splitlines()) == len(texts[0].splitlines())  # the base's line is out of the header, a note in


def test_name_that_is_no_unicode_is_refused_or_escaped(tmp_path: Path) -> None:
    """An argument of bytes that are no UTF-8 reaches us as halves of characters; JSON's readers refuse them."""
    with pytest.raises(SoRAError, match=r"base model 'a\\udcff' is no Unicode text: expected a name"):
        export(tmp_path / "a", "cls", base_model="a\udcff")
    folder = export(tmp_path / "a", "cls", licence="b\udcff", notes=["c\udcff"])
    assert "- c\\udcff\n" in (folder / "README.md").read_text(encoding="utf-8")


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_licence_is_read_by_yaml_as_it_was_given(text: str) -> None:
    assert front_matter(header(base_model=None, library="peft", pipeline="x", licence=text))["license"] == (
        text or "unknown"
    )


@given(text=st.text())
def test_any_name_is_one_code_span_on_one_line(text: str) -> None:
    span = code(text)
    assert len(span.splitlines()) == 1
    fence = re.match("`+", span)
    assert fence is not None
    assert span.endswith(fence[0])
    assert len(fence[0]) > max((len(run) for run in re.findall("`+", text)), default=0)
    assert span.isprintable()


@heads
def test_header_names_what_the_hub_asks_for(tmp_path: Path, head: HeadName) -> None:
    text = (export(tmp_path / "a", head, base_model="somebody/tiny", licence="mit") / "README.md").read_text()
    assert front_matter(text) == {
        "base_model": "somebody/tiny",
        "library_name": "peft",
        "license": "mit",
        "pipeline_tag": "text-classification" if head == "cls" else "feature-extraction",
        "tags": ["sora", "lora"],
    }
    assert "Needs PEFT 0.13 or later" in text


@pytest.mark.parametrize("base", ["/home/me/tiny", "./tiny", "C:\\tiny", "a/b/c", "-x"])
def test_base_model_that_is_no_name_on_the_hub_is_none_in_the_header(tmp_path: Path, base: str) -> None:
    text = (export(tmp_path / "a", "cls", base_model=base) / "README.md").read_text()
    assert "base_model" not in front_matter(text)


def test_local_base_is_said_to_be_one(tmp_path: Path) -> None:
    text = (export(tmp_path / "a", "cls", base_model="tiny", local_base=True) / "README.md").read_text()
    assert "base_model" not in front_matter(text)
    assert "- Base model: `tiny`, which is no name on a hub." in text


def test_labels_fit_the_outputs() -> None:
    assert labels_of(3, (), None).names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert labels_of(1, (), 5) == (("value",), "regression", 5)
    assert labels_of(1, ["only"], 5).problem == "single_label_classification"
    with pytest.raises(SoRAError, match="1 labels for 2 outputs: expected one for each"):
        labels_of(2, ["x"], None)
    with pytest.raises(SoRAError, match="labels repeat"):
        labels_of(2, ["x", "x"], None)


@pytest.mark.parametrize("text", [loaders.PEFT_WHOLE, loaders.PEFT_BESIDE, loaders.TRANSFORMERS_BESIDE])
def test_loaders_are_python_in_lines_of_ordinary_length(text: str) -> None:
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= 120


def test_merged_card_warns_of_the_pipeline_where_it_would_draw_a_classifier() -> None:
    labels = labels_of(2, ["bad", "good"], 12)
    mean = merged_card(architecture=BERT, base_model=None, whole=False, labels=labels, licence=None)
    cls = merged_card(architecture=BERT, base_model="a/b", whole=True, labels=labels, licence=None)
    assert 'Not `pipeline("text-classification")`' in mean
    assert front_matter(mean) == {
        "library_name": "transformers",
        "license": "unknown",
        "pipeline_tag": "feature-extraction",
        "tags": ["sora"],
    }
    assert front_matter(cls)["pipeline_tag"] == "text-classification"
    assert "max_length=12" in python_of(cls)[0]
    for text in (mean, cls):
        assert "- output 1: `good`" in text


def test_card_counts_the_modules_that_carry_an_adapter(tmp_path: Path) -> None:
    kept = SoRA(np.ones((2, 3)), np.ones(2), np.ones((3, 2)), 2.0)
    gone = SoRA(np.ones((2, 3)), np.zeros(2), np.ones((3, 2)), 2.0)
    adapters = {QUERY: kept, QUERY.replace("query", "key"): gone}
    saved = {"classifier.weight": np.eye(2, 3), "classifier.bias": np.zeros(2)}
    export_adapter(tmp_path / "a", adapters, saved, architecture=BERT, head="mean", layout="compact", base_model="base")
    assert "Components kept: 2 in 1 of 2 modules." in (tmp_path / "a" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("head", ["cls", "mean"])
def test_cards_show_how_pairs_are_given(tmp_path: Path, head: HeadName) -> None:
    text = (export(tmp_path / "a", head) / "README.md").read_text(encoding="utf-8")
    merged = merged_card(
        architecture=BERT, base_model=None, whole=head == "cls", labels=labels_of(2, [], 128), licence=None
    )
    by_loader = "# of pairs: model.predict(firsts, seconds)"
    assert by_loader in text
    assert (by_loader if head == "mean" else '# of pairs: [{"text": first, "text_pair": second}]') in merged
