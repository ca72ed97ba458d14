"""A run's configuration: a TOML file, overridden by flags, resolved into one frozen record."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import tomli_w
from msgspec import Meta, Struct
from msgspec.structs import replace

from sora_ref import GATE_RULES
from sora_ref.errors import SoRAError, printable, shown
from sora_ref.gate import GateRule
from sora_ref.methods import METHODS, Branch, Own
from sora_ref.models import KINDS
from sora_ref.optim import SGD, AdamW, Optimiser
from sora_ref.preconditions import require
from sora_ref.run.artefacts import ARTEFACTS
from sora_ref.run.former import in_todays_form, make_way
from sora_ref.run.keys import flat, in_words, put, require_known, word
from sora_ref.schedules import (
    MOST_STAGES,
    Schedule,
    algorithm_1_values,
    constant,
    linear_warmup_decay,
    listed_values,
    released_linear,
    stage_values,
)
from sora_ref.step import RECIPES, Recipe
from sora_ref.storage.documents import read_toml
from sora_ref.storage.regular import absolute

Whole = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1, le=10**9)]
NonNegative = Annotated[float, Meta(ge=0)]
Probability = Annotated[float, Meta(ge=0, lt=1)]

GATE_LR = 8.0  # the default of gate.lr under the rule "paper"


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; a key that is none of its fields is an error."""


class ModelSection(Section, frozen=True):
    """path: a Hugging Face folder, or the name of one that is fetched.  dtype of the work: see `Config`."""

    path: str = "minilm"
    head: Literal["cls", "mean"] = "mean"
    max_length: Positive = 128


class TaskSection(Section, frozen=True):
    """name: a task of `TASK_NAMES`; path: its folder; for "table": files by split and the names of their columns.

    skip_bad_rows: of "table", pass over rows with a fault, count them and list the first.  limit: take only so many
    examples of each split, its first.
    """

    name: str = "movies"
    path: str | None = None
    files: dict[str, str] = {}
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    id: str | None = None
    labels: list[str] | None = None
    kind: Literal["classification", "regression"] = "classification"
    header: bool = True
    skip_bad_rows: bool = False
    split_seed: Whole = 0
    limit: Positive | None = None


class AdapterSection(Section, frozen=True):
    """kinds: linear layers that carry an adapter; none under a method that adapts no module, as "head".

    gate: where SoRA's gates begin, a number, or "normal" for N(0, 1).
    """

    kinds: tuple[str, ...] = KINDS
    r: Whole = 8
    alpha: float = 16.0
    gate: float | Literal["normal"] = 1.0
    dropout: Probability = 0.0


class GateSection(Section, frozen=True):
    """rule: one of `GATE_RULES`; strength: its ξ or λ; lr: the gates' own peak learning rate.

    lr is by default `GATE_LR` under the rule "paper", whose plain gradient step needs a large one, and train.lr under
    the others.  gradient: "zero" is the control in which the data have no say.  loss_l1: the released rule's second L1
    term.

    The defaults fit some 238 steps, the demonstration's: thresholds then add up to 2.1 and gates begin at 1, so what
    stays was kept by the data.  In a run of T steps they add up to about T·lr·λ/2; gates that begin at more than that
    all stay.  `sora_ref.methods.survivors` says which it was.
    """

    rule: str = "paper"
    strength: NonNegative = 2.2e-3
    lr: NonNegative | None = None
    gradient: Literal["data", "zero"] = "data"
    loss_l1: NonNegative | None = None


class TrainSection(Section, frozen=True):
    """The optimiser and the loop.  warmup: a share of the steps.  clip 0 clips nothing.  Periods are in steps.

    also: groups of the base model's own parameters that are trained as well.
    microbatch_tokens: 512 by default, and 16,384 on a GPU.  loggers: see `sora_ref.run.loggers`.
    max_steps: at most so many in all; rates are those of a run of that length.  early_stopping: end after so many
    evaluations in a row without a better score.  keep_best: keep the parameters of the best one.  score_test: at the
    end, score the test split too.
    """

    epochs: Positive = 1
    max_steps: Positive | None = None
    early_stopping: Positive | None = None
    keep_best: bool = False
    score_test: bool = False
    batch: Positive = 32
    lr: NonNegative = 1e-3
    optimiser: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["linear", "constant", "released"] = "linear"
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.06
    weight_decay: NonNegative = 0.0
    clip: NonNegative = 1.0
    hidden_dropout: Probability = 0.0
    attention_dropout: Probability = 0.0
    microbatch_tokens: Positive | None = None
    bucket_batches: Positive = 16
    also: tuple[Own, ...] = ()
    log_every: Positive = 10
    checkpoint_every: Positive = 100
    loggers: tuple[Literal["tensorboard", "mlflow"], ...] = ()


class ScheduleSection(Section, frozen=True):
    """The sparsifying scheduler (SoRA Algorithm 1).

    kind "algorithm-1": start, stop, delta; "constant", "linear", "log_linear", "exp_linear": start, stop, stages;
    "list": values.  epochs: of every stage after the first, which has train.epochs.  reset_moments: start each stage
    with fresh optimiser moments and step count (the released code keeps them).
    """

    kind: Literal["algorithm-1", "constant", "linear", "log_linear", "exp_linear", "list"] = "algorithm-1"
    start: NonNegative = 0.0
    stop: NonNegative = 0.0
    delta: float | None = None
    stages: Annotated[int, Meta(ge=1, le=MOST_STAGES)] = 1
    values: Annotated[list[float], Meta(max_length=MOST_STAGES)] = []
    overshoot: bool = False
    epochs: Positive = 5
    reset_moments: bool = True
    memorization_examples: Positive = 1000

    def strengths(self) -> tuple[float, ...]:
        """ξ (or λ) of every stage."""
        if self.kind == "list":
            return listed_values(self.values)
        if self.kind == "algorithm-1":
            require(self.delta is not None, "schedule.delta is missing: expected the step of algorithm-1")
            return algorithm_1_values(self.start, self.stop, self.delta or 0.0, overshoot=self.overshoot)
        return stage_values(self.kind, self.start, self.stop, self.stages)


class Config(Section, frozen=True):
    """Everything that decides a run's numbers; and `workers`, threads that do not (0: one per core).

    kernels: the set of operations; "backend" is the fastest that can be loaded, see `sora_ref.kernels`.
    method: one of `sora_ref.methods.METHODS`; [adapter] is of those that adapt modules, [gate] of SoRA.
    precision: of the float32 matrix products, where a GPU offers others than fp32.
    """

    seed: Whole = 0
    workers: Annotated[int, Meta(ge=0, le=1024)] = 0
    backend: str = "numpy"
    dtype: Literal["float32", "float64"] = "float32"
    kernels: Literal["backend", "numba", "numpy", "cuda", "reference"] = "backend"
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None
    method: str = "sora"
    model: ModelSection = ModelSection()
    task: TaskSection = TaskSection()
    adapter: AdapterSection = AdapterSection()
    gate: GateSection = GateSection()
    train: TrainSection = TrainSection()
    schedule: ScheduleSection | None = None

    def branch(self) -> Branch:
        """What the method is told of the branch that it adds to a module."""
        gate = None if self.adapter.gate == "normal" else self.adapter.gate
        return Branch(self.seed, self.adapter.r, self.adapter.alpha, gate, self.dtype)

    def recipe(self, decayed: Callable[[str], bool]) -> Recipe:
        """What stays the same from step to step; `decayed` says which parameters weight decay acts on."""
        rule = self.gate_rule()
        preset = RECIPES[rule.name]
        adamw = preset.optimiser if isinstance(preset.optimiser, AdamW) else AdamW()
        optimiser: Optimiser = adamw if self.train.optimiser == "adamw" else SGD()
        return dataclasses.replace(
            preset,
            optimiser=dataclasses.replace(optimiser, weight_decay=self.train.weight_decay),
            gate_rule=rule,
            clip=self.train.clip or None,
            gate_gradient=self.gate.gradient,
            decayed=decayed,
        )

    def gate_rule(self) -> GateRule:
        """The gate rule by its name, with this configuration's second L1 term where it gives one."""
        name = self.gate.rule
        require(name in GATE_RULES, f"gate.rule is {shown(name)}: expected one of {', '.join(GATE_RULES)}")
        rule = GATE_RULES[name]
        return rule if self.gate.loss_l1 is None else rule.replace(loss_l1=self.gate.loss_l1)

    @property
    def gate_lr(self) -> float:
        """The gates' peak learning rate: what gate.lr says, or its default for the rule."""
        if self.gate.lr is not None:
            return self.gate.lr
        return GATE_LR if self.gate.rule == "paper" else self.train.lr

    def learning_rates(self, total: int) -> tuple[Schedule, Schedule]:
        """The schedules of the weights and of the gates over `total` steps."""
        peaks = (self.train.lr, self.gate_lr)
        warmup = int(self.train.warmup * total)
        make = {
            "linear": lambda peak: linear_warmup_decay(peak, total, warmup),
            "released": lambda peak: released_linear(peak, total, warmup),
            "constant": constant,
        }[self.train.schedule]
        return make(peaks[0]), make(peaks[1])


def load_config(
    path: Path | None, overrides: Mapping[str, Any], names: Mapping[str, str] = MappingProxyType({})
) -> Config:
    """The file's configuration (the defaults where it is None) with `overrides`, dotted key -> value, put on top.

    names: what the giver of an override calls it, e.g. "--epochs" for train.epochs.  Raises SoRAError for a file that
    cannot be read or is no TOML, for an unknown key, and for a value of the wrong kind: with the file's name where the
    file alone is at fault, else with the names of the overrides concerned.
    """
    tree = {} if path is None else read_toml(path, "a configuration")
    alone = _fault(tree) if overrides else None
    for dotted in overrides:
        make_way(tree, dotted)
    for dotted, value in overrides.items():
        try:
            put(tree, dotted, value)
        except SoRAError as error:
            raise SoRAError(_blame(names, [dotted], str(error))) from error
    fault = _fault(tree)
    if fault is None:
        return _resolved(tree)
    if path is not None and (not overrides or fault == alone):
        raise SoRAError(f"{printable(str(path))}: {fault}")
    concerned = [key for key in overrides if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", fault)]
    section = [key for key in overrides if key.startswith(f"{re.split(r'[. ]', fault)[0]}.")]
    raise SoRAError(_blame(names, concerned or section or list(overrides), fault))


def _blame(names: Mapping[str, str], keys: Sequence[str], fault: str) -> str:
    given = ", ".join(names[key] for key in keys if key in names)
    return f"{given}: {fault}" if given else fault


def _fault(tree: Mapping[str, Any]) -> str | None:
    """What is wrong with these tables; None where nothing is."""
    try:
        config = _resolved(tree)
        msgspec.json.encode(config)  # raises for what is no text, which config.toml could not hold
        _check(config)
    except UnicodeEncodeError as error:  # of a flag, whose bytes were no UTF-8
        return f"{shown(error.object)} is no text: expected UTF-8"
    except SoRAError as error:
        return str(error)
    return None


def _resolved(tree: Mapping[str, Any]) -> Config:
    """The configuration of these tables, with what follows from other keys filled in; SoRAError in words."""
    today = in_todays_form(tree)
    require_known(today, Config)
    try:
        config = msgspec.convert(today, Config)
    except msgspec.ValidationError as error:
        raise SoRAError(in_words(error, today, Config)) from error
    method = METHODS.get(config.method)
    adapts = method is None or method.add is not None  # an unknown name is said by `_check`
    adapter = config.adapter if adapts else replace(config.adapter, kinds=())
    return replace(config, adapter=adapter, gate=replace(config.gate, lr=config.gate_lr))


def _check(config: Config) -> None:
    """What the types of the fields do not say."""
    for key, value in flat(msgspec.to_builtins(config)).items():
        require(not isinstance(value, float) or math.isfinite(value), f"{key} is {value}: expected a finite number")
    r, gate, kinds = config.adapter.r, config.adapter.gate, config.adapter.kinds
    method = METHODS.get(config.method)
    known = ", ".join(METHODS)
    if method is None:
        raise SoRAError(f"method is {shown(config.method)}: expected one of {known}")
    adapts = method.add is not None
    require(r > 0 or not adapts, 'adapter.r is 0: expected at least 1, or method = "head"')
    require(bool(kinds) or not adapts, 'adapter.kinds is empty: expected some, or method = "head"')
    held = gate == "normal" or abs(gate) <= float(np.finfo(config.dtype).max)
    require(held, f"adapter.gate is {gate}: expected a number that {config.dtype} can hold")
    unknown = sorted(set(kinds) - set(KINDS))
    some = ", ".join(KINDS)
    require(not unknown, f"adapter.kinds has {', '.join(map(word, unknown))}: expected some of {some}")
    also = config.train.also
    require(len(set(also)) == len(also), f"train.also is {shown(list(also))}: expected each group once")
    config.gate_rule()
    if config.schedule is not None:
        one = {"max_steps": config.train.max_steps, "early_stopping": config.train.early_stopping}
        of_one = [name for name, value in (one | {"keep_best": config.train.keep_best or None}).items() if value]
        require(not of_one, f"train.{' and train.'.join(of_one)}: is of a run without stages: expected no [schedule]")
        try:
            config.schedule.strengths()
        except SoRAError as error:
            said = str(error)
            raise SoRAError(said if said.startswith("schedule.") else f"schedule: {said}") from error
    _require_thresholds(config)


def _require_thresholds(config: Config) -> None:
    """SoRAError where a threshold would be beyond the numbers of the dtype: a run would only find it at that step."""
    schedule = config.schedule
    key = "gate.strength" if schedule is None else "schedule"
    strengths = (config.gate.strength,) if schedule is None else schedule.strengths()
    largest, rate = float(np.finfo(config.dtype).max), max(config.gate_lr, 1.0)
    require(
        max(strengths) * rate <= largest,
        f"{key} reaches {max(strengths):g}, at a learning rate of {rate:g}: expected thresholds that {config.dtype} "
        "can hold",
    )


def with_absolute_paths(config: Config) -> Config:
    """The configuration with its folders and files spelled out from the root, so that it can be used from anywhere."""
    model, task = config.model, config.task
    if model.path not in ARTEFACTS and absolute(model.path).is_dir():
        model = replace(model, path=str(absolute(model.path)))
    files = {split: str(absolute(path)) for split, path in task.files.items()}
    path = None if task.path is None else str(absolute(task.path))
    return replace(config, model=model, task=replace(task, path=path, files=files))


def dump_config(config: Config) -> str:
    """The configuration as TOML, every field spelled out; `load_config` gives it back."""
    tree = msgspec.to_builtins(config)
    return tomli_w.dumps(_without_none(tree))


def differences(a: Config, b: Config) -> list[str]:
    """The dotted keys in which two configurations differ, but for those that no number depends on."""
    flat_a, flat_b = (flat(msgspec.to_builtins(config)) for config in (a, b))
    keys = (flat_a.keys() | flat_b.keys()) - {"workers", "train.loggers", "train.score_test"}
    return sorted(key for key in keys if flat_a.get(key) != flat_b.get(key))


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    return tree
