"""The kit's rooms: which way their imports point, that each check has its place, and that old names still work."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sora_ref.conformance as kit
from sora_ref.conformance.checks.catalogue import ALL, MODULES
from sora_ref.conformance.engine.check import Check
from sora_ref.conformance.museum.baseline import PlainSoRA

ROOT = Path(kit.__file__).parent
PACKAGE = "sora_ref.conformance"
# A room may import itself and what stands before it; the last three do not import each other.
BELOW = {
    "protocol": set(),
    "engine": {"protocol"},
    "checks": {"protocol", "engine"},
    "frontends": {"protocol", "engine", "checks"},
    "museum": {"protocol", "engine", "checks"},
    "golden": {"protocol", "engine", "checks"},
}
OLD_MODULES = {"torch_adapter", "jax_adapter"}


def imported(path: Path) -> Iterator[str]:
    """The rooms of the kit that a file imports from, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[2] if name.count(".") > 1 else "" for name in names if name.startswith(PACKAGE))


def test_every_module_of_the_kit_stands_in_a_room() -> None:
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} - {"__pycache__"} == set(BELOW)
    assert {path.stem for path in ROOT.glob("*.py")} == {"__init__"} | OLD_MODULES


@pytest.mark.parametrize("room", BELOW)
def test_rooms_of_the_kit_import_what_stands_before_them_alone(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        assert set(imported(path)) <= BELOW[room] | {room}, path


# --- the list of checks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_check_that_a_module_makes_is_in_its_list(module: ModuleType) -> None:
    assert [value for value in vars(module).values() if isinstance(value, Check)] == list(module.CHECKS)


def test_every_module_of_checks_is_in_the_catalogue() -> None:
    others = {"__init__", "catalogue", "examples"}
    assert {path.stem for path in (ROOT / "checks").glob("*.py")} - others == {
        module.__name__.rpartition(".")[2] for module in MODULES
    }


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.id)
def test_docstring_of_the_function_that_a_check_names_cites_its_clause(each: Check) -> None:
    assert each.clause in (inspect.getdoc(each.function) or "")
    assert each.stated_by.startswith("sora_ref.")


# --- old names -------------------------------------------------------------------------------------------------------


RENAMED = [("Adapter", "Implementation"), ("Layout", "StorageLayout"), ("check_adapter", "check_implementation")]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_old_names_of_the_kit_are_the_new_ones_with_a_warning(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is called {new} now: the old name goes with the release after"):
        found = getattr(kit, old)
    assert found is getattr(kit, new)
    assert old not in kit.__all__


@pytest.mark.parametrize(("old", "name"), [("torch_adapter", "Torch"), ("jax_adapter", "Jax")])
def test_old_modules_of_the_kit_hold_the_new_classes_with_a_warning(old: str, name: str) -> None:
    sys.modules.pop(f"{PACKAGE}.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"{name}Adapter is called {PACKAGE}.{name}Implementation now"):
        module = importlib.import_module(f"{PACKAGE}.{old}")
    assert getattr(module, f"{name}Adapter") is getattr(kit, f"{name}Implementation")


def test_a_test_may_still_call_its_implementation_an_adapter() -> None:
    def old(adapter: Any, check: Any) -> None: ...

    def new(implementation: Any, check: Any) -> None: ...

    def both(implementation: Any, check: Any, adapter: Any) -> None: ...  # a fixture of the test's own

    decorate = kit.parametrize_with_checks([PlainSoRA()], only=["SORA-PROX-1"])
    with pytest.warns(DeprecationWarning, match="old: call its argument `adapter` `implementation`"):
        decorate(old)
    decorate(new)
    decorate(both)
    decorated: list[Any] = [old, new, both]
    names = [mark.args[0] for each in decorated for mark in each.pytestmark]
    assert names == [("adapter", "check"), ("implementation", "check"), ("implementation", "check")]


def test_names_that_the_kit_never_had_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        kit.Nothing  # noqa: B018 - the access is what is tested


MINE = """
from sora_ref.conformance import {name}


class Mine({name}):
    def forward(self, layer, x):
        y = x @ layer.W0.T + layer.s * ((x @ layer.A.T) * layer.g) @ layer.B.T
        return y if layer.b is None else y + layer.b
"""


@pytest.mark.parametrize("name", ["Implementation", "Adapter"])
def test_an_implementation_outside_the_repository_is_checked_by_either_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE.format(name=name), encoding="utf-8")
    words = ["check", "mine:Mine", "--only", "SORA-LINEAR-1", "--max-examples", "5"]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-m", "sora_ref", *words], cwd=tmp_path, capture_output=True, text=True
    )
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert (done.returncode, ["SORA-LINEAR-1", "passed"] in lines) == (0, True), done.stdout + done.stderr
    assert ("DeprecationWarning" in done.stderr) == (name == "Adapter")
