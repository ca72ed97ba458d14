"""The one exception of this project, and how a sentence quotes what it was given."""

from __future__ import annotations

import unicodedata

LONGEST = 1000  # characters of a line of ours in which somebody else's words may stand
_MOST = 80  # characters of a value that a sentence quotes
NO_TEXT = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}  # controls, marks, what has no meaning yet, separators of lines


class SoRAError(ValueError):
    """Bad input, said in one sentence: what it is, where it is, what was expected.

    The command line prints the sentence and exits with status 1; nothing else is ever shown to a user.  Whatever it was
    made of, the sentence is printable.

    >>> sr.soft_threshold(np.ones(2), -1.0)
    Traceback (most recent call last):
      ...
    sora_ref.errors.SoRAError: threshold is -1.0: expected at least 0
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


def printable(text: str) -> str:
    """The text with every character that is no plain text (a terminal's escapes, marks of direction) as its escape."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in NO_TEXT else ascii(c)[1:-1] for c in text)


def shown(value: object, most: int = _MOST) -> str:
    """How a sentence quotes a value that came from outside: its repr, printable, cut after `most` characters."""
    try:
        whole = printable(repr(value[: most + 1] if isinstance(value, str | bytes) else value)[: most + 3])
    except (ValueError, RecursionError):  # an int of thousands of digits, lists within lists without end
        whole = f"a value of type {type(value).__name__}"
    return whole if len(whole) <= most + 2 else f"{whole[:most]}…"


def brief(text: str, most: int = 3 * _MOST) -> str:
    """How a sentence takes in another's words, a library's say: printable, in one line, cut after `most` characters."""
    line = printable(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else f"{line[:most]}…"


def one_line(text: str) -> str:
    """One printable line of at most `LONGEST` characters: of more, the beginning and the end."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 301]}…{line[-300:]}"
