"""Export to PEFT's LoRA format, and import from it: NumPy and safetensors alone, neither torch nor peft."""

from sora_ref.peft.compare import Comparison
from sora_ref.peft.export import ExportReport, export_adapter
from sora_ref.peft.load import PeftAdapter, adapters_from, read_adapter

__all__ = ["Comparison", "ExportReport", "PeftAdapter", "adapters_from", "export_adapter", "read_adapter"]
