"""Reading `adapter_config.json`: what a plain LoRA may say, and one sentence for everything else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, Struct

from sora_ref.errors import printable, shown
from sora_ref.peft.patterns import MOST_EXPRESSIONS, is_name, require_pattern
from sora_ref.preconditions import require
from sora_ref.storage.documents import convert, read_json

Rank = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Names = list[str] | str | None

_EXPECTED = "PEFT's configuration of a LoRA"


class LoraOptions(Struct, frozen=True):
    """The options that say which layers carry an adapter, of which rank and scale; defaults are PEFT's."""

    peft_type: Literal["LORA"]
    task_type: (
        Literal["SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"] | None
    ) = None
    base_model_name_or_path: str | None = None
    r: Rank = 8
    lora_alpha: float = 8
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    target_modules: Names = None
    exclude_modules: Names = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: Names = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    init_lora_weights: bool | str = True


class Config(NamedTuple):
    """raw: `adapter_config.json`, untouched.  options: what of it is understood."""

    raw: dict[str, Any]
    options: LoraOptions


# What changes nothing in a trained adapter.  Any other option has to be empty (None, False, "", [], {}), or the adapter
# means something that is not understood here.
_HARMLESS = frozenset(
    {
        "peft_version",
        "auto_mapping",
        "revision",
        "inference_mode",
        "lora_dropout",
        "fan_in_fan_out",  # how the base stores its weight; A and B are the same
        "megatron_core",
        "qalora_group_size",
        "runtime_config",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "ensure_weight_tying",
    }
)
# What PEFT puts around a key before it matches it: whatever `re` refuses there, PEFT refuses.
_PASTED = {
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
}
_OTHER = {
    "use_dora": "a DoRA, which also rescales the rows of the weight",
    "lora_bias": "B has a bias",
    "trainable_token_indices": "rows of an embedding are trained",
    "target_parameters": "the adapter belongs to parameters and not to modules",
    "layer_replication": "layers of the base model are repeated",
    "megatron_config": "the layers are Megatron's parallel ones",
    "use_qalora": "a QA-LoRA, which pools its input",
    "alora_invocation_tokens": "an aLoRA, which acts from certain tokens on",
}
# Initialisations that leave the base weights alone; the others (pissa, olora, loftq …) subtract something from them.
_PLAIN_INITIALISATIONS = (True, False, "gaussian", "orthogonal", "eva", "mica")


def read_config(path: Path) -> Config:
    """The configuration; SoRAError where it is absent, malformed, or asks for more than a plain LoRA."""
    raw = read_json(path, dict[str, Any], _EXPECTED)
    where = printable(str(path))
    kind = raw.get("peft_type")
    require(kind == "LORA", f"{where}: peft_type is {shown(kind)}: expected 'LORA'")
    options = convert(raw, LoraOptions, where, _EXPECTED)
    require(
        options.bias == "none",
        f"{where}: bias is {shown(options.bias)}: expected 'none', trained biases are not understood here",
    )
    require(
        options.init_lora_weights in _PLAIN_INITIALISATIONS,
        f"{where}: init_lora_weights is {shown(options.init_lora_weights)}, which changes the base weights: "
        "expected one that does not",
    )
    known = _HARMLESS | set(LoraOptions.__struct_fields__)
    unknown = [option for option, value in raw.items() if option not in known and value]
    reason = next((f" ({_OTHER[option]})" for option in unknown if option in _OTHER), "")
    require(not unknown, f"{where}: option {listed(unknown)} is set{reason}: expected a plain LoRA")
    _require_numbers(where, options)
    _require_layers(where, options)
    _require_patterns(where, options)
    return Config(raw, options)


def _require_numbers(where: str, options: LoraOptions) -> None:
    scales = {"lora_alpha": options.lora_alpha, **(options.alpha_pattern or {})}
    for key, value in scales.items():
        require(math.isfinite(value), f"{where}: scale {shown(key)} is {value}: expected a finite number")


def _require_patterns(where: str, options: LoraOptions) -> None:
    """SoRAError unless all that PEFT takes as a regular expression is one: a list of names is none."""
    expressions = {
        "rank_pattern": [*(options.rank_pattern or {})],
        "alpha_pattern": [*(options.alpha_pattern or {})],
        "modules_to_save": options.modules_to_save or [],
        "layers_pattern": as_list(options.layers_pattern),
        "target_modules": [options.target_modules] if isinstance(options.target_modules, str) else [],
        "exclude_modules": [options.exclude_modules] if isinstance(options.exclude_modules, str) else [],
    }
    others = [(option, each) for option, found in expressions.items() for each in found if not is_name(each)]
    require(
        len(others) <= MOST_EXPRESSIONS,
        f"{where}: {len(others):,} regular expressions: expected names, or {MOST_EXPRESSIONS:,} expressions at most",
    )
    for option, expression in others:
        require_pattern(f"{where}: {option}", expression, _PASTED.get(option, "{}"))


def _require_layers(where: str, options: LoraOptions) -> None:
    """SoRAError for layers_to_transform and layers_pattern where PEFT refuses them."""
    layers, pattern = options.layers_to_transform, options.layers_pattern
    one = isinstance(options.target_modules, str) and (layers is not None or pattern is not None)
    require(
        not one,
        f"{where}: layers_to_transform or layers_pattern stands beside a target_modules that is one expression: "
        "expected a list of names, PEFT refuses this",
    )
    require(
        layers is not None or not pattern,
        f"{where}: layers_pattern stands without layers_to_transform: expected both, PEFT refuses this",
    )


def as_list(names: Names) -> list[str]:
    """One name or several, as a list."""
    return [names] if isinstance(names, str) else names or []


def listed(names: list[str]) -> str:
    """The first three names, short and printable, and how many more there are."""
    short = [shown(name)[1:-1] if len(name) <= 80 else shown(name)[1:] for name in names[:3]]
    return ", ".join(short) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
