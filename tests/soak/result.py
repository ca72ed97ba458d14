"""What one case of the campaign came to, and when what a user sees is right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from sora_ref.errors import LONGEST, one_line, printable

SECONDS = 5.0  # of the processor's time, that a reader may take for a file
BYTES = 2**30  # of memory, that it may take beside what the process had


@dataclass(frozen=True)
class Result:
    """One case.

    part, kind: `fuzz`, `toml`;  case: what `--case` takes to run it again.
    outcome:    `accepted`, or the beginning of the sentence of a refusal.
    fault:      what is wrong, empty where all is right;  files: the input that did it, by name.
    seconds, memory: of the processor, and bytes more than before; 0 where they are not measured.
    """

    part: str
    kind: str
    case: str
    outcome: str
    fault: str = ""
    seconds: float = 0.0
    memory: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def cause(self) -> str:
        """The fault without its numbers and names: equal for cases that one mistake explains."""
        return f"{self.part} {self.kind}: {pattern(self.fault, 160)}"


def fault_of_sentence(sentence: str) -> str:
    """What is wrong with a sentence as the command line prints it; empty where it is right."""
    length = len(" ".join(sentence.split()))
    if length == 0:
        return "an empty sentence"
    if length > LONGEST:
        return f"a sentence of {length} characters: {one_line(sentence)[:160]}…"
    if printable(one_line(sentence)) != one_line(sentence):
        return f"characters that are no text in a sentence: {sentence[:200]!a}"
    return ""


def pattern(text: str, most: int = 70) -> str:
    """A sentence without what differs from case to case: paths, quotations, numbers."""
    text = re.sub(r"/[^\s:,;)]+", "PATH", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "…", text)
    return re.sub(r"\d+", "N", text)[:most]
