"""`sora-ref check`: the status is 0 only if all holds, and whatever is wrong is one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import CliRunner, Result

from sora_ref import SoRAError
from sora_ref.cli.check import check
from sora_ref.conformance import all_checks
from sora_ref.conformance.engine.runner import EXAMPLES
from sora_ref.conformance.frontends.json_report import schema

MINE = """
import numpy as np
from sora_ref.conformance import Implementation, Choices, StorageLayout
from sora_ref.conformance.museum.baseline import PlainSoRA

class Right(PlainSoRA):
    name = "mine"

class Wrong(Right):
    def prox(self, v, xi):
        return np.maximum(np.abs(v) - v.dtype.type(xi), 0)

class Prints(Right):
    def prox(self, v, xi):
        print("hello")
        return super().prox(v, xi)

class Forward(Implementation):
    def forward(self, layer, x):
        return PlainSoRA().forward(layer, x)
    def gradient(self, layer, x, dy):
        pass

class Typo:
    def foward(self, layer, x):
        pass

class Bare:
    def forward(self, layer, x):
        pass

class Fragile(Right):
    @property
    def layout(self):
        raise RuntimeError("no layout here")

class Grouped(Right):
    layout = StorageLayout(groups="two")

class Needs:
    def __init__(self, path):
        pass

class Text(Right):
    dtypes = "float64"

class Descends(Right):
    choices = Choices(descend="adam")

class NoMetric(Right):
    choices = Choices(amount="metric")

class Later(Right):
    spec_version = "99.1"

class Low(Right):
    precision = "int4"

class Single(Right):
    dtypes = ("float32",)
    def forward(self, layer, x):
        return super().forward(layer, x).astype("float32")

class Listed(Right):
    least_rank = -1

class Raises(Right):
    def merge(self, layer):
        return layer.nothing

right = Right()
thing = 3

def make():
    return Right()

def fails():
    raise RuntimeError("no weights here")
"""
_numbers = count()


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of its own name in the current folder, which is what is searched."""
    name = f"mine_{os.getpid()}_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return name


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(check, [*map(str, arguments)], prog_name="sora-ref check")


def sentence(*arguments: Any) -> str:
    """The one sentence of a bad input."""
    result = run(*arguments)
    assert isinstance(result.exception, SoRAError), result.output
    assert result.output == ""
    return str(result.exception)


# --- the status ----------------------------------------------------------------------------------------------------


def test_right_implementation_gets_status_0_and_a_badge(mine: str) -> None:
    result = run(f"{mine}:Right", "--level", "core", "--max-examples", 3)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("SoRA ")
    assert " · core · float64 · " in result.stdout.splitlines()[-1]


def test_refused_clause_gets_status_1(mine: str) -> None:
    result = run(f"{mine}:Wrong", "--only", "SORA-PROX-1", "--max-examples", 5)
    assert result.exit_code == 1
    assert "refused SORA-PROX-1: " in result.stdout
    assert "|T(v)|: the sign is lost" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("no badge: refused SORA-PROX-1")


def test_error_that_an_implementation_raises_is_refused_with_its_line(mine: str) -> None:
    line = MINE.splitlines().index("        return layer.nothing") + 1
    result = run(f"{mine}:Raises", "--only", "SORA-PRUNE-4", "--max-examples", 2)
    assert result.exit_code == 1
    assert "merge raises AttributeError: 'Layer' object has no attribute 'nothing'" in result.stdout
    assert f"raised  {mine}.py, line {line}" in result.stdout


def test_missing_required_capability_gets_status_1(mine: str) -> None:
    result = run(f"{mine}:Forward", "--level", "core", "--max-examples", 2)
    assert result.exit_code == 1
    assert "no badge: the level needs gradients, prox, prune" in result.stdout
    assert "note: gradient is no capability: did you mean gradients?" in result.stdout


def test_expected_failure_is_strict_and_its_reason_is_shown(mine: str) -> None:
    only = ("--only", "SORA-PROX-2", "--max-examples", 5)
    expected = run(f"{mine}:Wrong", *only, "--expect-failure", "SORA-PROX-2=ticket 12")
    assert (expected.exit_code, "(ticket 12)" in expected.stdout) == (0, True)
    passed = run(f"{mine}:Right", *only, "--expect-failure", "SORA-PROX-2=ticket 12")
    assert (passed.exit_code, "XPASSED" in passed.stdout) == (1, True)
    idle = run(f"{mine}:Right", *only, "--expect-failure", "SORA-PRUNE-1=ticket 13")
    assert "note: the expected failure of SORA-PRUNE-1 was not looked at" in idle.stdout


@pytest.mark.parametrize("name", ["right", "make", "Right"])
def test_instances_functions_and_classes_are_taken(mine: str, name: str) -> None:
    assert run(f"{mine}:{name}", "--only", "SORA-PROX-3", "--max-examples", 2).exit_code == 0


def test_equal_seeds_give_equal_reports_and_the_command_gives_them_again(mine: str) -> None:
    arguments = (f"{mine}:Wrong", "--only", "SORA-PROX-1", "--dtype", "float32", "--max-examples", 5, "--seed", 1)
    first, again = (re.sub(r"[0-9.]+ s\n", "", run(*arguments).stdout) for _ in range(2))
    assert first == again
    assert f"sora-ref check {mine}:Wrong --only SORA-PROX-1 --dtype float32 --seed 1 --max-examples 5" in first


# --- files ---------------------------------------------------------------------------------------------------------


def test_json_on_standard_output_is_nothing_but_json(mine: str) -> None:
    result = run(f"{mine}:Prints", "--only", "SORA-PROX-1", "--max-examples", 2, "--json", "-")
    found = json.loads(result.stdout)
    jsonschema.Draft202012Validator(schema()).validate(found)
    assert found["implementation"]["address"] == f"{mine}:Prints"
    assert "hello" in result.stderr
    assert "SORA-PROX-1" in result.stderr


def test_json_and_junit_are_written(mine: str, tmp_path: Path) -> None:
    result = run(
        f"{mine}:Wrong", "--only", "SORA-PROX-3", "--max-examples", 3, "--json", "new/a.json", "--junit", "new/a.xml"
    )
    assert result.exit_code == 1
    found = json.loads((tmp_path / "new/a.json").read_text(encoding="utf-8"))
    assert [each["status"] for each in found["checks"]] == ["failed"]
    assert len(list(ElementTree.parse(tmp_path / "new/a.xml").iter("failure"))) == 1
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.json", "a.xml"]


# --- the other modes -----------------------------------------------------------------------------------------------


def test_list_has_a_line_for_every_check() -> None:
    assert [line.split()[0] for line in run("--list").stdout.splitlines()] == [each.id for each in all_checks()]
    core = [each.id for each in all_checks() if each.level == "core"]
    assert [line.split()[0] for line in run("--list", "--level", "core").stdout.splitlines()] == core
    assert [line.split()[3] for line in run("--list").stdout.splitlines()] == [each.stated_by for each in all_checks()]


def test_identify_prints_the_table_of_choices(mine: str, tmp_path: Path) -> None:
    result = run(f"{mine}:Right", "--identify", "--json", "found.json")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "mine is identified as `paper`"
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["variants"] == ["paper"]


def test_self_says_a_line_for_every_backend_and_the_status_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    import sora_ref.conformance.frontends.self_check as reference

    result = run("--self", "--level", "core", "--max-examples", 1)
    assert result.exit_code == 0
    assert "sora_ref on numpy, rule paper: holds" in result.stdout
    monkeypatch.setattr(reference, "self_check", lambda say, **options: [])
    assert run("--self").exit_code == 1  # nothing that ran, nothing that holds


def test_museum_ends_with_one_line_and_fails_if_any_slips(monkeypatch: pytest.MonkeyPatch) -> None:
    import sora_ref.conformance.museum as museum

    some, run_all = museum.MISTAKES[:2], museum.run_all
    monkeypatch.setattr(museum, "run_all", partial(run_all, mistakes=some))
    result = run("--museum", "--max-examples", 20)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "refused 2/2 for the right clause")
    assert len(result.stdout.splitlines()) == 3
    slipped = (museum.Verdict(some[0], None), *run_all(mistakes=some[1:]))
    monkeypatch.setattr(museum, "run_all", lambda say, **options: [say(each) or each for each in slipped])
    result = run("--museum", "--quiet")
    assert result.exit_code == 1
    told = f"{some[0].name}: not refused, expected {some[0].refused_by}"  # quiet: those that slip alone
    assert result.stdout.splitlines() == [told, "refused 1/2 for the right clause"]


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Nope", "has no Nope: expected an implementation there, such as Right"),
        ("Typo", "foward is no capability: did you mean forward?"),
        ("Bare", "has no name, spec_version, dtypes"),
        ("Fragile", "RuntimeError: no layout here): expected attributes that can be read"),
        ("Grouped", "cannot be inspected (TypeError: "),
        ("Needs", "Needs() fails (TypeError: "),
        (
            "fails",
            f"line {len(MINE.splitlines())}: RuntimeError: no weights here): expected one that needs no arguments",
        ),
        ("thing", "has none of an implementation's methods: expected some of forward, gradients"),
        ("Text", "declares dtypes = 'float64': expected a tuple"),
        ("Descends", "declares the choice descend = 'adam': expected one of sgd, adamw, adamw-raw"),
        ("NoMetric", "Adam's metric, and gates that descend by SGD"),
        ("Later", "declares spec_version = '99.1': expected"),
        ("Low", "precision 'int4': expected one of"),
        ("Listed", "declares least_rank = -1: expected a rank"),
    ],
)
def test_what_is_no_implementation_is_said_in_one_sentence(mine: str, name: str, said: str) -> None:
    assert said in sentence(f"{mine}:{name}")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("mine", "'mine' names no implementation: expected pkg.module:Name"),
        ("mine:", "names no implementation"),
        (":Implementation", "names no implementation"),
        ("mi-ne:A", "names no implementation"),
        ("pkg/mine.py:Implementation", "names a file: expected a module, pkg.mine:Implementation"),
        ("nowhere_at_all:A", "there is no module nowhere_at_all here or installed"),
        ("json.nowhere:A", "there is no module json.nowhere here or installed"),
    ],
)
def test_addresses_that_lead_nowhere(mine: str, address: str, said: str) -> None:
    assert said in sentence(address)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nimport nowhere_at_all\n", ".py, line 2: ModuleNotFoundError: No module named 'nowhere_at_all')"),
        ("def f(:\n", ".py, line 1: SyntaxError: invalid syntax)"),
        ("import json\n\njson.loads('{')\n", ".py, line 3: JSONDecodeError: "),
        ("raise SystemExit(2)\n", ".py, line 1: SystemExit: 2)"),
    ],
)
def test_error_inside_the_users_module_is_said_with_its_line(mine: str, tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / f"{mine}_bad.py").write_text(source, encoding="utf-8")
    told = sentence(f"{mine}_bad:A")
    assert told.startswith(f"{mine}_bad cannot be imported ({mine}_bad.py")
    assert said in told


def test_other_bad_input(mine: str, tmp_path: Path) -> None:
    right = f"{mine}:Right"
    assert sentence(right, "--only", "nope").startswith("unknown check 'nope'")
    assert sentence(right, "--expect-failure", "nope=x").startswith("unknown check 'nope'")
    assert "expected ID=REASON" in sentence(right, "--expect-failure", "SORA-PROX-3")
    assert "expected ID=REASON" in sentence(right, "--expect-failure", "SORA-PROX-3= ")
    assert "computes in float32" in sentence(f"{mine}:Single", "--dtype", "float64")
    assert "is a folder: expected the name of a file" in sentence(right, "--json", tmp_path)
    assert "expected a writable folder" in sentence(right, "--junit", tmp_path / f"{mine}.py" / "x.xml")


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("m:A", "--self"),
        ("--self", "--museum"),
        ("m:A", "--list"),
        ("m:A", "--dtype", "float16"),
        ("m:A", "--level", "some"),
        ("m:A", "--max-examples", "0"),
        ("m:A", "--seed", "-1"),
        ("m:A", "--identify", "--only", "SORA-PROX-1"),
        ("--self", "--json", "x.json"),
        ("--museum", "--dtype", "float32"),
    ],
)
def test_wrong_usage_gets_status_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: sora-ref check" in result.stderr


def test_as_many_examples_are_drawn_by_default_as_the_kit_draws() -> None:
    (option,) = (option for option in check.params if option.name == "max_examples")
    assert option.default == EXAMPLES


def test_the_command_as_a_user_runs_it(mine: str) -> None:
    def sora_ref(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sora_ref.cli.main", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = sora_ref(f"{mine}:Wrong", "--only", "SORA-PROX-3", "--max-examples", "5")
    assert (done.returncode, done.stderr) == (1, "")
    bad = sora_ref("nowhere_at_all:A")
    assert (bad.returncode, bad.stdout, bad.stderr.count("\n")) == (1, "", 1)
    assert bad.stderr.startswith("sora-ref: there is no module nowhere_at_all")
    code = (
        "import sys; sys.modules['hypothesis'] = None; sys.argv = ['sora-ref', 'check', 'm:A']; "
        "from sora_ref.cli.main import main; main()"
    )
    without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert without.returncode == 1
    assert without.stderr == (
        "sora-ref: this command needs more packages (hypothesis is missing): pip install 'sora_ref[check]'\n"
    )
