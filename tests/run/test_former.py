"""Configurations of earlier versions mean today what they meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import killed_at, make_config, make_keys, outcome, run_once

from sora_ref.errors import SoRAError
from sora_ref.run.config import dump_config, load_config
from sora_ref.run.former import in_todays_form
from sora_ref.run.trained import load_trained


@pytest.mark.parametrize(
    ("former", "today"),
    [
        ({}, {"method": "sora"}),
        ({"gated": True, "norms": False, "biases": False}, {"method": "sora"}),
        ({"gated": False}, {"method": "lora"}),
        ({"kinds": []}, {"method": "head"}),
        ({"kinds": [], "gated": False}, {"method": "head"}),
        ({"norms": True}, {"train.also": ["norms"]}),
        ({"norms": True, "biases": True, "gated": False}, {"method": "lora", "train.also": ["norms", "biases"]}),
    ],
)
def test_former_keys_mean_what_they_meant(former: dict[str, Any], today: dict[str, Any]) -> None:
    before = {f"adapter.{key}": value for key, value in former.items()}
    assert load_config(None, before) == load_config(None, today)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"adapter.gated": "no"}, "adapter.gated is 'no': expected true or false"),
        ({"adapter.norms": 1}, "adapter.norms is 1: expected true or false"),
        ({"adapter.gated": False, "method": "sora"}, "adapter.gated and method are both there: expected method alone"),
        ({"method": "lora", "adapter.gated": True}, "adapter.gated and method are both there: expected method alone"),
        ({"adapter.biases": True, "train.also": []}, "adapter.biases and train.also are both there"),
        ({"adapter.norms": True, "train": 3}, "train is 3: expected a table, got an integer"),
        ({"adapter.norms": True, "train": "x"}, "train is 'x': expected a table, got text"),
    ],
)
def test_former_key_that_says_nothing_clear_is_refused_by_name(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(SoRAError) as caught:
        load_config(None, keys)
    assert words in str(caught.value)


OVERRIDES: list[tuple[str, dict[str, Any], str, tuple[str, ...]]] = [
    ('method = "lora"', {"adapter.gated": False}, "lora", ()),  # a run of today, resumed by the command that began it
    ('method = "lora"', {"adapter.gated": True}, "sora", ()),
    ('method = "sora"', {"adapter.gated": False}, "lora", ()),
    ('method = "head"', {"adapter.gated": False}, "head", ()),
    ('train.also = ["norms"]', {"adapter.norms": True}, "sora", ("norms",)),
    ('train.also = ["norms"]', {"adapter.biases": True}, "sora", ("norms", "biases")),
    ('train.also = ["norms", "biases"]', {"adapter.norms": False}, "sora", ("biases",)),
    ("adapter.gated = false", {"method": "sora"}, "sora", ()),
    ("adapter.gated = true", {"method": "lora"}, "lora", ()),
    ("adapter.gated = false", {"adapter.gated": True}, "sora", ()),
    ("adapter.norms = true", {"train.also": ["biases"]}, "sora", ("biases",)),
    ("adapter.norms = true\nadapter.gated = false", {"train.also": []}, "lora", ()),
    ("adapter.kinds = []", {"adapter.kinds": ["query"]}, "sora", ()),
]


@pytest.mark.parametrize(("file", "over", "method", "also"), OVERRIDES)
def test_override_wins_whichever_of_the_two_forms_it_and_the_file_have(
    tmp_path: Path, file: str, over: dict[str, Any], method: str, also: tuple[str, ...]
) -> None:
    (tmp_path / "a.toml").write_text(file)
    config = load_config(tmp_path / "a.toml", over)
    assert (config.method, config.train.also) == (method, also)


def test_form_of_today_is_left_as_it_is_and_the_given_tables_too() -> None:
    tree: dict[str, Any] = {"method": "lora", "adapter": {"r": 4}, "train": {"also": ["norms"]}}
    assert in_todays_form(tree) == tree
    former: dict[str, Any] = {"adapter": {"gated": False}}
    in_todays_form(former)
    assert former == {"adapter": {"gated": False}}


@pytest.mark.parametrize(("method", "former"), [("sora", "gated = true"), ("lora", "gated = false")])
def test_run_directory_of_an_earlier_version_opens_and_goes_on(tmp_path: Path, method: str, former: str) -> None:
    keys = make_keys(tmp_path)
    run_once(tmp_path / "whole", keys, method=method)
    run = tmp_path / "run"
    with killed_at(5), pytest.raises(BrokenPipeError):
        run_once(run, keys, method=method)
    text = dump_config(make_config(keys, method=method))
    assert text == (run / "config.toml").read_text()
    text = text.replace(f'method = "{method}"\n', "").replace("[adapter]\n", f"[adapter]\n{former}\nnorms = false\n")
    (run / "config.toml").write_text(text.replace("also = []\n", ""))
    assert load_trained(run).setup.config.method == method
    run_once(run, keys, resume=True, method=method)
    found, expected = outcome(run), outcome(tmp_path / "whole")
    del found["config.toml"], expected["config.toml"]  # it stays as it was
    assert found == expected
