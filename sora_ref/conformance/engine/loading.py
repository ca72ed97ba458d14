"""The implementation that a user names as pkg.module:Name; one sentence says what is wrong with a name or a class."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sora_ref import SPEC_VERSION
from sora_ref.conformance.engine.declarations import version_numbers
from sora_ref.conformance.engine.subject import Subject
from sora_ref.conformance.protocol.choices import Choices
from sora_ref.conformance.protocol.implementation import CAPABILITIES, Implementation, capabilities
from sora_ref.conformance.protocol.storage_layout import StorageLayout
from sora_ref.errors import SoRAError, shown

ATTRIBUTES: tuple[str, ...] = tuple(Implementation.__annotations__)
_EXPECTED = "expected pkg.module:Name, a module that can be imported and a name in it"
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})

_KIT = str(Path(__file__).resolve().parents[1]) + os.sep


def load(address: str) -> Implementation:
    """The implementation at pkg.module:Name, a class, an instance or a function without arguments.

    The current folder is searched first, as `python -m` does.  Raises SoRAError where there is no implementation.
    """
    module, colon, name = address.partition(":")
    if module.endswith(".py"):
        raise SoRAError(f"{shown(address)} names a file: expected a module, {_instead(module, name or 'Name')}")
    if not colon or not all(part.isidentifier() for part in f"{module}.{name}".split(".")):
        raise SoRAError(f"{shown(address)} names no implementation: {_EXPECTED}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any = _module(module)
    others = _others(found)
    for part in name.split("."):
        if not hasattr(found, part):
            raise SoRAError(f"{module} has no {name}: expected an implementation there{others}")
        found = getattr(found, part)
    return as_implementation(found, address)


def as_implementation(found: Any, what: str = "") -> Implementation:
    """The implementation that this is, or that this class or function makes; SoRAError, naming `what`, otherwise."""
    what = what or (found.__name__ if inspect.isclass(found) or inspect.isfunction(found) else type(found).__name__)
    if inspect.isclass(found) or (
        callable(found) and not isinstance(found, Implementation) and not capabilities(found)
    ):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise SoRAError(f"{what}() fails{_told(error)}: expected one that needs no arguments") from error
    try:
        return _inspected(found, what)
    except SoRAError:
        raise
    except Exception as error:  # a property or a __getattr__ of theirs may raise anything, and a value be of any type
        raise SoRAError(f"{what} cannot be inspected{_told(error)}: expected attributes that can be read") from error


def _inspected(found: Any, what: str) -> Implementation:
    """The same, once its methods are found and its attributes are sound; SoRAError where they are not."""
    missing = [name for name in ATTRIBUTES if not hasattr(found, name)]
    if not capabilities(found):
        close = misspelt(found)
        expected = close[0] if close else f"expected some of {', '.join(CAPABILITIES)}"
        raise SoRAError(f"{what} has none of an implementation's methods: {expected}")
    if missing:
        raise SoRAError(
            f"{what} has no {', '.join(missing)}: expected the attributes of sora_ref.conformance.Implementation, "
            "which a subclass of it has"
        )
    implementation: Implementation = found
    _check_attributes(implementation, what)
    return implementation


def misspelt(implementation: Any) -> list[str]:
    """A sentence for every method that is no capability, but has almost the name of one that is lacking."""
    lacking = [name for name in CAPABILITIES if name not in capabilities(implementation)]
    own = [name for name in dir(type(implementation)) if not name.startswith("_") and not hasattr(Implementation, name)]
    close = {name: difflib.get_close_matches(name, lacking, 1, 0.8) for name in own}
    return [f"{name} is no capability: did you mean {match[0]}?" for name, match in close.items() if match]


def _instead(filename: str, name: str) -> str:
    """How a file's module is called from here, or from the file's own folder where it is not below this one."""
    path = Path(filename)
    parts = path.with_suffix("").parts
    if all(part.isidentifier() for part in parts):
        return f"{'.'.join(parts)}:{name}"
    return f"{path.stem}:{name} in the folder {shown(str(path.parent))}"


def _module(name: str) -> Any:
    parents = {name.rsplit(".", k)[0] for k in range(name.count(".") + 1)}
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in parents:
            raise SoRAError(f"there is no module {error.name} here or installed: {_EXPECTED}") from error
        raise SoRAError(f"{name} cannot be imported{_told(error)}") from error
    except (Exception, SystemExit) as error:
        raise SoRAError(f"{name} cannot be imported{_told(error)}") from error


def _told(error: BaseException) -> str:
    """Where an error came from, and what it says."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f" ({_shown(error.filename)}, line {error.lineno}: {type(error).__name__}: {error.msg})"
    message = " ".join(str(error).split()) or "no message"
    return f" ({': '.join([*origin(error), type(error).__name__, message])})"


def origin(error: BaseException) -> list[str]:
    """File and line of the last frame that is neither Python's, nor ours, nor installed; empty where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not each.filename.startswith((*_INSTALLED, _KIT, "<"))]
    return [f"{_shown(own[-1].filename)}, line {own[-1].lineno}"] if own else []


def _shown(filename: str) -> str:
    path, here = Path(filename), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else filename


def _others(module: Any) -> str:
    """The implementations that a module defines."""
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Implementation) and value.__module__ == module.__name__
    ]
    return f", such as {', '.join(names)}" if names else ""


def _check_attributes(implementation: Implementation, what: str) -> None:
    def need(name: str, right: bool, expected: str) -> None:
        if not right:
            raise SoRAError(f"{what} declares {name} = {shown(getattr(implementation, name))}: expected {expected}")

    need("name", isinstance(implementation.name, str), "a string")
    version = implementation.spec_version
    numbers = isinstance(version, str) and re.fullmatch(r"\d+(\.\d+)*", version) is not None
    need("spec_version", numbers, f'a version such as "{SPEC_VERSION}"')
    need("spec_version", version_numbers(version) <= version_numbers(SPEC_VERSION), f"{SPEC_VERSION} or earlier")
    words = implementation.dtypes
    a_list = isinstance(words, Sequence) and not isinstance(words, str) and all(isinstance(each, str) for each in words)
    need("dtypes", a_list, 'a tuple of names, such as ("float64", "float32")')
    need("choices", isinstance(implementation.choices, Choices), "an instance of sora_ref.conformance.Choices")
    need(
        "layout", isinstance(implementation.layout, StorageLayout), "an instance of sora_ref.conformance.StorageLayout"
    )
    need(
        "layout",
        implementation.layout.groups >= 1 and implementation.layout.sites >= 1,
        "at least one group and one site",
    )
    need("gated", isinstance(implementation.gated, bool), "True or False")
    need("biased", isinstance(implementation.biased, bool), "True or False")
    need(
        "least_rank", isinstance(implementation.least_rank, int) and implementation.least_rank >= 0, "a rank, 0 or more"
    )
    need("precision", implementation.precision is None or isinstance(implementation.precision, str), "None or a string")
    assert Subject(implementation, "float64").precision  # raises where its words are unknown
    hints = get_type_hints(Choices)
    for field in dataclasses.fields(Choices):
        value, hint = getattr(implementation.choices, field.name), hints[field.name]
        if get_origin(hint) is Literal and value not in get_args(hint):
            expected = ", ".join(get_args(hint))
            raise SoRAError(f"{what} declares the choice {field.name} = {shown(value)}: expected one of {expected}")
    if implementation.choices.descend == "sgd" and implementation.choices.amount.startswith("metric"):
        raise SoRAError(f"{what} declares a threshold in Adam's metric, and gates that descend by SGD: expected Adam's")
