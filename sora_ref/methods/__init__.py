"""The ways of fine-tuning, one file each, and the table of them."""

from collections.abc import Mapping
from types import MappingProxyType

from sora_ref.methods.head import HEAD
from sora_ref.methods.lora import LORA
from sora_ref.methods.method import Added, Branch, Ending, Method, Own, Survivors
from sora_ref.methods.sora import SORA

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in (HEAD, LORA, SORA)})

__all__ = ["HEAD", "LORA", "METHODS", "SORA", "Added", "Branch", "Ending", "Method", "Own", "Survivors"]
