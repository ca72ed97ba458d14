"""A run's configuration: its file, the flags on top of it, and what is wrong with either."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sora_ref import GATE_RULES
from sora_ref.cli import train as command
from sora_ref.cli.commands import cli
from sora_ref.errors import SoRAError
from sora_ref.models import KINDS
from sora_ref.models.bert import BERT
from sora_ref.optim import SGD, AdamW
from sora_ref.run.config import (
    GATE_LR,
    Config,
    GateSection,
    TrainSection,
    differences,
    dump_config,
    load_config,
)
from sora_ref.run.demo import demo_config
from sora_ref.run.keys import flat, known_keys, parse_override

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

REALS = st.floats(0, 1e18)  # a threshold, strength times learning rate, fits into float32
SHARES = st.floats(0, 1, exclude_max=True)
WORDS = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = (
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**62),
            "backend": WORDS,
            "dtype": st.sampled_from(["float32", "float64"]),
            "kernels": st.sampled_from(["backend", "numba", "numpy", "reference"]),
            "model.path": WORDS,
            "model.head": st.sampled_from(["cls", "mean"]),
            "model.max_length": st.integers(1, 999),
            "task.path": st.none() | WORDS,
            "task.files": st.dictionaries(WORDS, WORDS, max_size=3),
            "task.text": st.none() | WORDS,
            "task.labels": st.none() | st.lists(WORDS, max_size=3),
            "task.header": st.booleans(),
            "adapter.kinds": st.lists(st.sampled_from(sorted(KINDS)), max_size=6),
            "adapter.r": st.integers(1, 9),
            "adapter.alpha": st.floats(-1e300, 1e300),
            "adapter.gate": st.just("normal") | st.floats(-9, 9) | st.integers(-9, 9),
            "adapter.dropout": SHARES,
            "gate.rule": st.sampled_from(sorted(GATE_RULES)),
            "gate.strength": REALS,
            "gate.lr": st.none() | REALS,
            "gate.loss_l1": st.none() | REALS,
            "train.lr": REALS,
            "train.warmup": st.floats(0, 1),
            "schedule.kind": st.just("list"),
            "schedule.values": st.lists(REALS, min_size=1, max_size=3),
            "schedule.delta": st.none() | REALS,
        },
    )
    .map(lambda keys: {"schedule.values": [0.0], **keys} if any(key.startswith("schedule") for key in keys) else keys)
    .map(lambda keys: {**keys, "schedule.kind": "list"} if "schedule.values" in keys else keys)
)


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def fault(path: Path | None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(SoRAError) as caught:
        load_config(path, overrides or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    config = load_config(None, {})
    assert config == replace(Config(), gate=GateSection(lr=GATE_LR))
    assert config.schedule is None
    assert (config.gate.rule, config.adapter.r, config.adapter.kinds) == ("paper", 8, KINDS)


@pytest.mark.parametrize(("rule", "lr"), [("paper", GATE_LR), ("adamw-xi", 0.5), ("released", 0.5)])
def test_gates_have_a_learning_rate_of_their_own_under_the_paper_rule_and_that_of_the_weights_under_others(
    rule: str, lr: float
) -> None:
    assert load_config(None, {"gate.rule": rule, "train.lr": 0.5}).gate.lr == lr
    assert load_config(None, {"gate.rule": rule, "train.lr": 0.5, "gate.lr": 0.25}).gate.lr == 0.25
    _, gate_lr = Config(gate=GateSection(rule=rule), train=TrainSection(lr=0.5, warmup=0.0)).learning_rates(4)
    assert gate_lr(1) == lr


def test_default_thresholds_outlast_the_gates_over_one_epoch_of_the_default_task() -> None:
    config = load_config(None, {})
    steps = math.ceil(7609 / config.train.batch) * config.train.epochs
    _, gate_lr = config.learning_rates(steps)
    total = sum(gate_lr(t) * config.gate.strength for t in range(1, steps + 1))
    assert steps == 238
    assert total == pytest.approx(2.103, abs=5e-4)
    assert isinstance(config.adapter.gate, float)
    assert total > config.adapter.gate


def test_example_of_a_run_spells_out_every_key_with_its_default() -> None:
    path = EXAMPLES / "run.toml"
    text = path.read_text(encoding="utf-8")
    in_words = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    spelled = {
        f"{section}.{key}" if isinstance(value, dict) else section
        for section, value in tomllib.loads(in_words).items()
        for key in (value if isinstance(value, dict) else [section])
    }
    elsewhere = {f"task.{key}" for key in ("path", "files", "text", "pair", "label", "id", "labels", "kind", "header")}
    assert spelled | elsewhere == {key for key in known_keys(Config) if not key.startswith("schedule.")}
    config = load_config(path, {})
    assert config == replace(load_config(None, {}), train=replace(config.train, microbatch_tokens=512))


def test_example_of_the_demonstration_is_what_the_demonstration_trains() -> None:
    assert load_config(EXAMPLES / "demo.toml", {}) == load_config(
        None, demo_config(quick=False, seed=0, backend="numpy")
    )


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_a_configuration(path: Path) -> None:
    load_config(path, {})


@given(KEYS)
def test_dumped_configuration_loads_as_itself_and_dumps_as_itself(
    tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Any]
) -> None:
    config = load_config(None, keys)
    path = write(tmp_path_factory.getbasetemp(), dump_config(config))
    again = load_config(path, {})
    assert again == config
    assert differences(config, again) == []
    assert dump_config(again) == dump_config(config)


@given(KEYS)
def test_every_key_given_is_in_the_configuration(keys: dict[str, Any]) -> None:
    config = load_config(None, keys)
    for dotted, value in keys.items():
        found: Any = config
        for part in dotted.split("."):
            found = getattr(found, part)
        if (dotted, value) != ("gate.lr", None):  # its default
            assert (list(found) if isinstance(found, tuple) else found) == value


def test_flags_override_the_file_and_set_overrides_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Config] = []

    def train(config: Config, out: Path, **options: Any) -> dict[str, Any]:
        seen.append(config)
        raise SoRAError("seen")

    monkeypatch.setattr("sora_ref.run.training.train", train)
    path = write(tmp_path, "seed = 1\n[train]\nlr = 1e-1\nepochs = 9\nbatch = 7\n[adapter]\nr = 2\n")
    arguments = ["train", "--config", str(path), "--out", "x", "--lr", "0.2", "--batch", "6", "--seed", "0"]
    result = CliRunner().invoke(cli, [*arguments, "--set", "train.batch=5", "--set", "gate.lr=1e-3"])
    assert str(result.exception) == "seen"
    (config,) = seen
    assert (config.train.epochs, config.train.lr, config.train.batch, config.adapter.r) == (9, 0.2, 5, 2)
    assert (config.seed, config.gate.lr) == (0, 1e-3)


def test_every_flag_of_train_sets_a_key_of_the_configuration() -> None:
    known = {parameter.name for parameter in command.train.params}
    assert set(command.KEYS) == known - {"config", "out", "resume", "accept_changed_data", "sets", "as_json", "quiet"}
    keys = known_keys(Config)
    for key in command.KEYS.values():
        assert any(key == one or key.startswith(f"{one}.") for one in keys), key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.lr=1e-3", ("train.lr", 1e-3)),
        (" seed = 7 ", ("seed", 7)),
        ("gate.rule=paper", ("gate.rule", "paper")),
        ('gate.rule="paper"', ("gate.rule", "paper")),
        ("adapter.kinds=[]", ("adapter.kinds", [])),
        ("task.header=false", ("task.header", False)),
        ('task.files={train = "a b"}', ("task.files", {"train": "a b"})),
        ("task.path=a=b", ("task.path", "a=b")),
        ("task.path=", ("task.path", "")),
    ],
)
def test_set_reads_values_as_toml_and_else_as_words(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["seed", "=1", " =1", ""])
def test_set_without_a_key_is_refused(text: str) -> None:
    with pytest.raises(SoRAError, match=r"--set .*: expected KEY=VALUE"):
        parse_override(text)


BAD = [
    ("sed = 1", "sed"),
    ("[train]\nlrr = 1", "lrr"),
    ("[trian]\nlr = 1", "trian"),
    ("seed = -1", "seed"),
    ("seed = 1.5", "seed"),
    ('seed = "1"', "seed"),
    ("seed = true", "seed"),
    ('dtype = "float16"', "dtype"),
    ('kernels = "fast"', "kernels"),
    ("train = 1", "train"),
    ("[train]\nlr = -1e-3", "train.lr"),
    ("[train]\nlr = nan", "train.lr"),
    ("[train]\nlr = true", "train.lr"),
    ('[train]\nlr = "high"', "train.lr"),
    ("[train]\nepochs = 0", "train.epochs"),
    ("[train]\nwarmup = 1.5", "train.warmup"),
    ('[train]\noptimiser = "adam"', "train.optimiser"),
    ("[train]\nmicrobatch_tokens = 0", "train.microbatch_tokens"),
    ("[adapter]\nr = -1", "adapter.r"),
    ("[adapter]\ndropout = 1.0", "adapter.dropout"),
    ('[adapter]\ngate = "uniform"', "adapter.gate"),
    ("[adapter]\nkinds = 1", "adapter.kinds"),
    ("[adapter]\nkinds = [1]", "adapter.kinds"),
    ("[model]\nmax_length = 0", "model.max_length"),
    ('[model]\nhead = "max"', "model.head"),
    ("[gate]\nstrength = -1", "gate.strength"),
    ('[gate]\ngradient = "none"', "gate.gradient"),
    ("[task]\nfiles = [1]", "task.files"),
    ("[task.files]\ntrain = 1", "task.files"),
    ("[task]\nsplit_seed = -1", "task.split_seed"),
    ('[schedule]\nkind = "cosine"', "schedule.kind"),
    ("[schedule]\nstages = 0", "schedule.stages"),
]
CHECKED_LATER = [
    ('[gate]\nrule = "lasso"', "gate.rule"),
    ('[adapter]\nkinds = ["query", "q"]', "adapter.kinds"),
    ("[schedule]\nstop = 1.0", "schedule.delta"),
    ("[schedule]\nstop = 1.0\ndelta = 0.0", "delta"),
    ('[schedule]\nkind = "list"', "empty list"),
    ('[schedule]\nkind = "exp_linear"\nstop = 1.0', "exp_linear"),
    ('[schedule]\nkind = "list"\nvalues = [-1.0]', "value 0"),
]
NOT_FINITE = [
    ("[adapter]\nalpha = nan", "adapter.alpha"),
    ("[adapter]\ngate = inf", "adapter.gate"),
    ("[train]\nlr = inf", "train.lr"),
    ("[gate]\nstrength = inf", "gate.strength"),
]


@pytest.mark.parametrize(("text", "key"), BAD)
def test_bad_key_or_value_is_one_sentence_with_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path, text)
    sentence = fault(path)
    assert sentence.startswith(f"{path}: ")
    assert key in sentence


@pytest.mark.parametrize(("text", "key"), CHECKED_LATER)
def test_value_that_no_rule_or_schedule_accepts_is_one_sentence_with_its_key(
    tmp_path: Path, text: str, key: str
) -> None:
    assert key in fault(write(tmp_path, text))


@pytest.mark.parametrize(("text", "key"), CHECKED_LATER)
def test_value_that_no_rule_or_schedule_accepts_is_said_with_its_file(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path, text)
    assert str(path) in fault(path)


@pytest.mark.parametrize(("text", "key"), NOT_FINITE)
def test_number_that_is_not_finite_is_refused_with_its_key(tmp_path: Path, text: str, key: str) -> None:
    assert key in fault(write(tmp_path, text))


def test_fault_is_said_of_the_flag_that_brought_it_and_of_the_file_where_the_file_did(tmp_path: Path) -> None:
    names = {"train.epochs": "--epochs", "schedule.stages": "--set schedule.stages", "train.batch": "--batch"}

    def said(text: str, overrides: dict[str, Any]) -> str:
        with pytest.raises(SoRAError) as caught:
            load_config(write(tmp_path, text), overrides, names)
        return str(caught.value)

    good, file = "seed = 1", f"{tmp_path / 'run.toml'}: "
    assert said(good, {"train.epochs": 0}) == "--epochs: train.epochs is 0: expected an integer >= 1"
    assert said("[train]\nbatch = 0", {"train.epochs": 2}) == f"{file}train.batch is 0: expected an integer >= 1"
    assert said("[train]\nbatch = 0", {"train.batch": -1}) == "--batch: train.batch is -1: expected an integer >= 1"
    kind = '[schedule]\nkind = "exp_linear"\nstart = 1.0\nstop = 2.0'
    assert said(f"{kind}\n", {"schedule.stages": 10**9}).startswith("--set schedule.stages: schedule.stages is")
    assert said('[schedule]\nkind = "exp_linear"', {"schedule.stages": 3}).startswith(f"{file}schedule: exp_linear")
    assert said(good, {"schedule.stages": 3}) == (
        "--set schedule.stages: schedule.delta is missing: expected the step of algorithm-1"
    )


def test_file_that_a_flag_mends_is_accepted(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "[train]\nepochs = 0"), {"train.epochs": 3}).train.epochs == 3


def test_fault_of_a_key_given_in_python_names_the_key() -> None:
    assert fault(None, {"train.epochs": 0}) == "train.epochs is 0: expected an integer >= 1"
    assert "train is a value" in fault(None, {"train": 1, "train.lr": 1})


@pytest.mark.parametrize(
    ("dotted", "meant"),
    [
        ("train.lrr", "train.lrr is no key (did you mean train.lr"),
        ("lr", "lr is no key (did you mean gate.lr or train.lr?): expected one of seed, workers,"),
        ("trian.lr", "trian.lr is no key (did you mean train.lr or gate.lr?)"),
        ("gate.strenght", "(did you mean gate.strength?): expected one of gate.rule, gate.strength, gate.lr,"),
        ("zzz", "zzz is no key: expected one of seed, workers, backend,"),
        ("a\x1b[31m", r"'a\x1b[31m' is no key: expected one of"),
    ],
)
def test_unknown_key_lists_those_there_are_and_those_that_were_meant(dotted: str, meant: str) -> None:
    assert meant in fault(None, {dotted: 1})


def test_every_known_key_is_accepted_by_name_and_no_value_of_a_wrong_kind_leaves_without_its_key() -> None:
    class Wrong:
        """Of no type that a configuration has."""

    for dotted in known_keys(Config):
        sentence = fault(None, {dotted: Wrong()})
        assert sentence.startswith(f"{dotted} is "), sentence
        assert "no key" not in sentence


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"train.lr": 1.0, "train.lr.peak": 1}, "train.lr is a value: expected a table"),
        ({"train": 1}, "train is 1: expected a table"),
        ({".lr": 1}, "a part of the key is empty"),
        ({"train..lr": 1}, "a part of the key is empty"),
        ({"train.": 1}, "a part of the key is empty"),
        ({"train.optimiser": "adam"}, "train.optimiser is 'adam': expected one of 'adamw', 'sgd'"),
        ({"adapter.gate": "uniform"}, "adapter.gate is 'uniform': expected one of a number, 'normal'"),
        ({"adapter.gate": 1e39}, "adapter.gate is 1e+39: expected a number that float32 can hold"),
        ({"adapter.r": 0}, 'adapter.r is 0: expected at least 1, or method = "head"'),
        ({"method": "dora"}, "method is 'dora': expected one of head, lora, sora"),
        ({"method": "lora", "adapter.kinds": []}, 'adapter.kinds is empty: expected some, or method = "head"'),
        ({"train.also": ["gates"]}, "train.also"),
        ({"train.also": ["norms", "norms"]}, "train.also is ['norms', 'norms']: expected each group once"),
        ({"train.epochs": 2**62}, "expected an integer <= 1000000000"),
        ({"workers": 10**6}, "workers is 1000000: expected an integer <= 1024"),
        ({"train.lr": 10**400}, "expected a number that a float can hold"),
        ({"task.name": "x" * 10**6, "train.lr": "y" * 10**6}, "expected a number, got text"),
        ({"schedule.kind": "linear", "schedule.stages": 10**9}, "schedule.stages is 1000000000: expected an integer"),
        ({"schedule.kind": "list", "schedule.values": [0.0] * 10**6}, "expected a list of length <= 10000"),
        ({"schedule.stop": 1.0, "schedule.delta": 1e-300}, "schedule: more than 10,000 stages"),
    ],
)
def test_key_or_value_out_of_bounds_is_one_short_sentence(overrides: dict[str, Any], words: str) -> None:
    sentence = fault(None, overrides)
    assert words in sentence
    assert len(sentence) < 400


def test_key_over_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SoRAError, match=r"^--set train: train: this is a table: expected one of its keys"):
        load_config(write(tmp_path, "[train]\nlr = 1.0"), {"train": 1}, {"train": "--set train"})


@pytest.mark.parametrize("text", ["=1", "a", " = 1", ""])
def test_override_that_is_no_key_and_value_is_one_sentence(text: str) -> None:
    with pytest.raises(SoRAError, match=r"^--set .*: expected KEY=VALUE"):
        parse_override(text)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000])
def test_value_that_toml_cannot_read_is_text_and_a_number_is_wanted(value: str) -> None:
    key, read = parse_override(f"gate.strength={value}")
    sentence = fault(None, {key: read})
    assert sentence.endswith("expected a number, got text")
    assert len(sentence) < 250


def test_line_break_in_an_override_begins_no_other_key() -> None:
    assert parse_override("task.name=1\nseed = 2") == ("task.name", "1\nseed = 2")


def test_key_set_twice_is_refused_and_set_goes_over_a_flag(tmp_path: Path) -> None:
    sets = ["--set", "train.lr=1", "--set", "train.lr=2"]
    result = CliRunner().invoke(cli, ["train", "--out", str(tmp_path / "x"), *sets])
    assert str(result.exception) == "--set train.lr is given twice: expected one value"


def test_flags_say_the_defaults_of_their_keys() -> None:
    parameters = {parameter.name: parameter for parameter in command.train.params}
    defaults = {
        key: value
        for key, value in flat(msgspec.to_builtins(load_config(None, {}))).items()
        if value not in (None, [], ())
    }
    for flag, key in command.KEYS.items():
        option = parameters[flag]
        assert isinstance(option, click.Option)
        said = option.show_default or None
        assert option.is_flag or said == (str(defaults[key]) if key in defaults else None), flag


def test_file_that_is_missing_or_no_toml_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    assert fault(path) == f"{path}: no such file: expected a configuration"
    assert f"{tmp_path}: a folder" in fault(tmp_path)
    for data in (b"seed = ", b"[train", b"seed = 1\nseed = 2", b"\xff\xfe", b"\0", b"seed = " + b"9" * 5000):
        path.write_bytes(data)
        assert fault(path).startswith(f"{path}: damaged, not TOML (")
    path.write_text(f"x = {'[' * 3000}{']' * 3000}")
    assert fault(path) == f"{path}: nested too deeply: expected a configuration"


@pytest.mark.parametrize("name", GATE_RULES)
def test_every_gate_rule_goes_by_its_name_and_may_carry_a_loss_term(name: str) -> None:
    assert load_config(None, {"gate.rule": name}).recipe(BERT.decayed).gate_rule == GATE_RULES[name]
    changed = load_config(None, {"gate.rule": name, "gate.loss_l1": 0.5}).recipe(BERT.decayed).gate_rule
    assert changed == GATE_RULES[name].replace(loss_l1=0.5)


def test_recipe_follows_the_section_on_training() -> None:
    recipe = load_config(None, {"train.weight_decay": 0.1, "train.clip": 0.5, "gate.gradient": "zero"}).recipe(
        BERT.decayed
    )
    assert recipe.optimiser == AdamW(weight_decay=0.1)
    assert recipe.decayed == BERT.decayed
    assert (recipe.clip, recipe.clip_eps, recipe.gate_gradient) == (0.5, 0.0, "zero")
    assert load_config(None, {"train.clip": 0}).recipe(BERT.decayed).clip is None
    assert load_config(None, {"train.optimiser": "sgd"}).recipe(BERT.decayed).optimiser == SGD()
    released = load_config(None, {"gate.rule": "released"}).recipe(BERT.decayed)
    assert released.optimiser == AdamW(eps_on="raw", decays="after")
    assert released.clip_eps == 1e-6


@pytest.mark.parametrize("text", ["task.name=a\udce9", "task.name='\ud800'", "seed=\udcff", "a\udce9=1"])
def test_a_flag_whose_bytes_are_no_text_is_a_sentence(text: str) -> None:
    key, value = parse_override(text)
    with pytest.raises(SoRAError) as refusal:
        load_config(None, {key: value})
    str(refusal.value).encode()


def test_learning_rates_have_the_peaks_and_the_shape_asked_for() -> None:
    config = load_config(None, {"train.lr": 0.8, "gate.lr": 0.4, "train.warmup": 0.5})
    lr, gate_lr = config.learning_rates(8)
    assert [lr(t) for t in (1, 2, 4)] == [0.2, 0.4, 0.8]
    assert [gate_lr(t) for t in (1, 2, 4)] == [0.1, 0.2, 0.4]
    assert lr(8) > 0
    released, _ = load_config(None, {"train.schedule": "released", "train.warmup": 0.5}).learning_rates(8)
    assert released(1) == 0
    flat, gates = load_config(None, {"train.schedule": "constant", "train.lr": 0.8, "gate.lr": 0.4}).learning_rates(8)
    assert ({flat(t) for t in range(1, 9)}, {gates(t) for t in range(1, 9)}) == ({0.8}, {0.4})


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ({"schedule.stop": 0.3, "schedule.delta": 0.1}, (0.0, 0.1, 0.2, 0.3)),
        ({"schedule.stop": 0.3, "schedule.delta": 0.1, "schedule.overshoot": True}, (0.0, 0.1, 0.2, 0.3, 0.4)),
        ({"schedule.kind": "linear", "schedule.stop": 1.0, "schedule.stages": 3}, (0.0, 0.5, 1.0)),
        ({"schedule.kind": "constant", "schedule.start": 0.5, "schedule.stages": 2}, (0.5, 0.5)),
        ({"schedule.kind": "list", "schedule.values": [0.0, 3.0, 1.0]}, (0.0, 3.0, 1.0)),
    ],
)
def test_schedule_section_gives_the_strength_of_every_stage(keys: dict[str, Any], values: tuple[float, ...]) -> None:
    schedule = load_config(None, keys).schedule
    assert schedule is not None
    assert schedule.strengths() == values


@pytest.mark.parametrize("kind", ["log_linear", "exp_linear"])
def test_interpolated_schedules_run_from_start_to_stop(kind: str) -> None:
    schedule = load_config(
        None, {"schedule.kind": kind, "schedule.start": 0.1, "schedule.stop": 0.4, "schedule.stages": 5}
    ).schedule
    assert schedule is not None
    values = schedule.strengths()
    assert (values[0], values[-1], len(values)) == (0.1, 0.4, 5)
    assert list(values) == sorted(values)


def test_differences_are_the_dotted_keys_that_differ() -> None:
    base = load_config(None, {"task.files": {"train": "a"}})
    other = load_config(None, {"task.files": {"train": "b"}, "seed": 3, "train.lr": 0.5, "adapter.gate": 0.5})
    assert differences(base, other) == differences(other, base) == ["adapter.gate", "seed", "task.files", "train.lr"]
    assert differences(base, base) == []
    assert (
        differences(base, load_config(None, {"task.files": {"train": "a"}, "workers": 3})) == []
    )  # bits do not change
    scheduled = load_config(None, {"schedule.delta": 0.1})
    assert "schedule.delta" in differences(Config(), scheduled)
    assert "schedule.delta" in differences(scheduled, Config())


@pytest.mark.parametrize("parts", [11, 20_000])
def test_a_key_of_very_many_parts_is_refused_at_once(parts: int) -> None:
    with pytest.raises(SoRAError, match=r"a key of more than ten parts: expected one like train\.lr"):
        load_config(None, {".".join("a" * parts): 1})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"gate.strength": 1e308}, "gate.strength reaches 1e+308"),
        ({"schedule.kind": "linear", "schedule.stop": 1e39, "schedule.stages": 2}, "schedule reaches 1e+39"),
        ({"gate.strength": 1e38, "gate.lr": 1e3}, "gate.strength reaches 1e+38, at a learning rate of 1000"),
    ],
)
def test_thresholds_that_the_dtype_cannot_hold_are_refused_before_anything_is_begun(
    keys: dict[str, Any], named: str
) -> None:
    with pytest.raises(SoRAError, match=re.escape(named)):
        load_config(None, keys)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfseed = 7\n")
    assert load_config(tmp_path / "c.toml", {}).seed == 7
