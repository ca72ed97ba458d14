r"""PEFT's regular expressions, matched in linear time.

An adapter's configuration brings its own expressions, and Python's `re`, which PEFT matches them with, backtracks: a
pattern of twenty characters can keep it busy for ever.  RE2 takes time in proportion to the name, whatever the pattern.
Both languages agree on the patterns that are let through here, for names of ASCII letters, digits and marks:

* only what both read alike is let through: characters, sets, groups, alternatives, repetitions, `\d \w \s \b` and their
  opposites, `^`, `$`, flags where PEFT's `re` takes them;
* so look-arounds and references to groups are refused, `{,n}` (six characters to RE2), and `[:alpha:]` (a class to RE2,
  letters to Python); so is what PEFT's own `re` refuses.

What a match costs is bounded, too: expressions by their size, all matching of a configuration by its time.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

import re2

from sora_ref.errors import SoRAError, brief, shown
from sora_ref.preconditions import require

T = TypeVar("T")

_LONGEST = 200_000  # characters of an expression
MOST_EXPRESSIONS = 1_000  # in one configuration, names not counted
_MOST = 50_000  # comparisons of a name with an expression that is more than a name
_MOST_INSTRUCTIONS = 100_000  # of an expression, compiled
_SECONDS = 2.0  # of a processor, for all the matching that one configuration asks for
_SHARED = re.compile(
    r"""(?: \\[dDwWsSbBA] | \\[^A-Za-z0-9]                      # a class, an edge, an escaped mark
          | \(\?: | \(\?P<[A-Za-z_][A-Za-z_0-9]*> | \(\?[ims]+[:)] | \((?!\?) | \)
          | \[\^?\]?(?:[^]\\[]|\\[^A-Za-z0-9]|\\[dDwWsS])*\]    # a set, without another bracket in it
          | (?:[*+?]|\{[0-9]+(?:,[0-9]*)?\})\??(?![*+?{])       # a repetition, greedy or not
          | [^]\\[(){}*+?]                                      # a character, ^ $ . |
        )*""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"\^?(?:[A-Za-z0-9_.-]|\\[.-])+")  # a name, as an expression


def is_name(expression: str) -> bool:
    """Whether an expression is a name: escaped or not, with `^` in front or not."""
    return _PLAIN.fullmatch(expression) is not None


def require_pattern(where: str, expression: str, pasted: str = "{}") -> None:
    """SoRAError unless both engines take the expression, in the same sense.  pasted: what PEFT puts around it."""
    require(len(expression) <= _LONGEST, f"{where} has {len(expression):,} characters: expected {_LONGEST:,} at most")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "possible nested set": read otherwise by a Python to come
        try:
            re.compile(expression)
            re.compile(pasted.replace("{}", expression))
        except (re.error, RecursionError, OverflowError, Warning) as error:
            raise SoRAError(f"{where}: {shown(expression)} is no regular expression: {brief(str(error))}") from error
    compiled(expression, where)
    shared = _SHARED.match(expression)
    require(
        expression.isascii() and shared is not None and shared.end() == len(expression),
        f"{where}: {shown(expression)} uses what is not read here as Python reads it (a look-around, a reference, a "
        "class by name): expected characters of ASCII, groups, sets and repetitions",
    )


def compiled(expression: str, where: str = "a pattern") -> re2._Regexp:
    """The expression in RE2; SoRAError where RE2 has no such thing, or it is too large."""
    options = re2.Options()
    options.log_errors = False
    try:
        found = re2.compile(expression, options)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0].decode(errors="replace") if isinstance(error, re2.error) else "half a surrogate pair"
        raise SoRAError(
            f"{where}: {shown(expression)} cannot be matched in linear time ({brief(said)}): expected groups, sets and "
            "repetitions"
        ) from error
    size = found.programsize
    require(
        size <= _MOST_INSTRUCTIONS,
        f"{where}: {shown(expression)} is too large to be matched fast ({size:,} instructions): expected "
        f"{_MOST_INSTRUCTIONS:,} at most",
    )
    return found


class Work:
    """Matching for one configuration; SoRAError where it takes more than some seconds of a processor."""

    def __init__(self, where: str) -> None:
        """where: the file, for a sentence."""
        self._where, self._spent, self._since = where, 0.0, 0.0

    def __enter__(self) -> None:
        self._since = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._spent += time.thread_time() - self._since
        require(
            self._spent <= _SECONDS,
            f"{self._where}: its names and expressions take too long to match with this many modules: expected fewer",
        )

    def match(self, expression: re2._Regexp, name: str) -> re2._Match | None:
        """`re.match`: from the first character on."""
        with self:
            return expression.match(name)

    def fullmatch(self, expression: re2._Regexp, name: str) -> bool:
        """`re.fullmatch`: all characters."""
        with self:
            return expression.fullmatch(name) is not None


class FirstMatch(Generic[T]):
    r"""Values by pattern key, of which the first whose `(.*\.)?(key)$` matches a name holds for it.

    Most keys are names, which are looked up: `layer.1.key` matches what ends so after a dot or as a whole, each of its
    own dots standing for any character; `layer\.1\.key` for a dot alone; `^name` the whole name.  Others go through
    RE2, one by one.
    """

    def __init__(self, table: Mapping[str, T], where: str, work: Work | None = None) -> None:
        """table: the values by key.  where: file and option, for a sentence.  work: shared with other tables."""
        self._work = work or Work(where)
        self._values = list(table.values())
        self._keys = list(table)
        self._named: dict[tuple[bool, int, tuple[int, ...]], dict[str, int]] = {}
        self._others: list[tuple[int, re2._Regexp]] = []
        self._matched: set[int] = set()
        self._where, self._compared = where, 0
        for place, key in enumerate(table):
            if is_name(key):
                self._add_name(place, key)
            else:
                self._others.append((place, compiled(rf"(?:.*\.)?(?:{key})", where)))

    def get(self, name: str, default: T) -> T:
        """The value that holds for a name."""
        self._compared += len(self._others)
        require(
            self._compared <= _MOST,
            f"{self._where}: {len(self._others):,} expressions for this many modules: expected names, or fewer",
        )
        with self._work:
            found = [*self._by_name(name), *self._by_expression(name)]
        self._matched.update(found)
        return self._values[min(found)] if found else default

    @property
    def unmatched(self) -> list[str]:
        """The keys that have matched no name so far; PEFT 0.21 warns of them."""
        return [key for place, key in enumerate(self._keys) if place not in self._matched]

    def _add_name(self, place: int, key: str) -> None:
        parts = re.findall(r"\\.|.", key.removeprefix("^"))
        wild = tuple(at for at, part in enumerate(parts) if part == ".")
        text = "".join(part[-1] for part in parts)
        self._named.setdefault((key.startswith("^"), len(text), wild), {}).setdefault(text, place)

    def _by_name(self, name: str) -> Iterator[int]:
        ends = [0, *(at + 1 for at, character in enumerate(name) if character == ".")]
        for (whole, length, wild), places in self._named.items():
            begin = len(name) - length
            if begin == 0 or (not whole and begin in ends):
                tail = list(name[begin:])
                for at in wild:
                    tail[at] = "."
                place = places.get("".join(tail))
                if place is not None:
                    yield place

    def _by_expression(self, name: str) -> Iterator[int]:
        return (place for place, expression in self._others if expression.fullmatch(name) is not None)
