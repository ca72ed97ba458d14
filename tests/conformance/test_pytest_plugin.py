"""The checks as tests of pytest: in a user's own file, and by --sora-impl; and a plugin that is nothing until then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import _sora_ref_pytest
import sora_ref.conformance as kit
from sora_ref import SoRAError
from sora_ref.conformance import Implementation, Layer, Refusal, parametrize_with_checks, select
from sora_ref.conformance.frontends.pytest_plugin import Conformance
from sora_ref.conformance.museum.baseline import PlainSoRA

MINE = """
from sora_ref.conformance import Implementation
from sora_ref.conformance.museum.baseline import PlainSoRA

class Right(PlainSoRA):
    pass

class Wrong(PlainSoRA):
    def open(self, g):
        return super().open(abs(g) > 1e-8)

class Less(PlainSoRA):
    merge = Implementation.merge
"""
TEST = """
import mine
from sora_ref.conformance import parametrize_with_checks

@parametrize_with_checks(
    [mine.Right(), mine.Wrong, mine.Less()],
    expected_failures={"SORA-PRUNE-1": "a tolerance, ticket 12"},
    max_examples=8,
    only=["SORA-PRUNE-1", "SORA-PRUNE-4"],
)
def test_sora(implementation, check):
    check(implementation)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    return tmp_path


def run_pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *arguments]
    wide = os.environ | {"COLUMNS": "240"}  # summaries are cut at the terminal's width
    done = subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def parameters(*arguments: Any, **options: Any) -> list[Any]:
    def test(implementation: Any, check: Any) -> None: ...

    (mark,) = parametrize_with_checks(*arguments, **options)(test).pytestmark
    assert mark.args[0] == ("implementation", "check")
    found: list[Any] = mark.args[1]
    return found


# --- parametrize_with_checks ---------------------------------------------------------------------------------------


def test_a_users_own_test_file_passes_skips_and_fails_as_it_should(folder: Path) -> None:
    (folder / "test_mine.py").write_text(TEST, encoding="utf-8")
    status, text = run_pytest(folder, "test_mine.py")
    assert status == 1
    lines = text.splitlines()
    # Right passes where a failure is expected, which is strict; Wrong fails as expected; Less has no merge.
    assert "FAILED test_mine.py::test_sora[Right-SORA-PRUNE-1] - [XPASS(strict)] a tolerance, ticket 12" in lines
    assert "XFAIL test_mine.py::test_sora[Wrong-SORA-PRUNE-1] - a tolerance, ticket 12" in lines
    assert "PASSED test_mine.py::test_sora[Wrong-SORA-PRUNE-4]" in lines
    assert any(
        line.startswith("SKIPPED") and line.endswith("needs merge, which the implementation has not got")
        for line in lines
    )
    assert "conformance to the specification" not in text


def test_parameters_are_the_list_of_checks_for_every_implementation() -> None:
    class Mine(PlainSoRA):
        pass

    found = parameters([PlainSoRA(), Mine], level="core")
    assert [each.id for each in found] == [
        f"{name}-{check.id}" for name in ("PlainSoRA", "Mine") for check in select("core")
    ]
    assert len({each.id for each in parameters([Mine(), Mine()], level="core")}) == 2 * len(select("core"))
    assert [each.id for each in parameters(PlainSoRA, only=["SORA-PROX-3"])] == ["PlainSoRA-SORA-PROX-3"]


def test_expected_failures_by_clause_or_check_are_strict_and_have_their_reason() -> None:
    found = parameters([PlainSoRA], expected_failures={"SORA-PROX-1": "all of it", "SORA-PROX-1.zero": "this"})
    marks = {each.id.partition("-")[2]: each.marks for each in found if each.marks}
    assert set(marks) == {"SORA-PROX-1", "SORA-PROX-1.zero", "SORA-PROX-1.special"}
    assert [mark.kwargs["reason"] for (mark,) in marks.values()] == ["all of it", "this", "all of it"]
    assert all(mark.kwargs["strict"] and mark.kwargs["raises"] is Refusal for (mark,) in marks.values())


def test_a_check_can_be_called_and_says_all_of_the_refusal() -> None:
    class Wrong(PlainSoRA):
        def merge(self, layer: Layer) -> Any:
            return layer.W0

    (right,) = parameters([PlainSoRA], only=["SORA-PRUNE-5"], max_examples=3)
    implementation, check = right.values
    assert check(implementation) is None
    wrong = parameters([Wrong], only=["SORA-PRUNE-4"], max_examples=10, seed=5)[0]
    implementation, check = wrong.values
    with pytest.raises(Refusal, match=r"(?s)refused SORA-PRUNE-4: merging.*formula.*found.*input.*seed 5, 10 examples"):
        check(implementation)


def test_a_departure_that_is_declared_fails_with_its_reason() -> None:
    class Rescales(PlainSoRA):
        choices = PlainSoRA.choices.replace(scale_after_pruning="recomputed")

        def prune(self, layer: Layer) -> Layer:
            left = super().prune(layer)
            return left._replace(s=layer.s * layer.A.shape[0] / max(left.A.shape[0], 1))

    ((implementation, check),) = [each.values for each in parameters([Rescales], only=["SORA-PRUNE-2"], max_examples=5)]
    with pytest.raises(Refusal, match="recomputes s"):
        check(implementation)


@pytest.mark.parametrize(
    ("implementations", "options", "said"),
    [
        ([], {}, "no implementations"),
        ([3], {}, "none of an implementation's methods"),
        ([Implementation], {}, "none of an implementation's methods"),
        ([PlainSoRA], {"expected_failures": {"nope": "x"}}, "unknown check 'nope'"),
        ([PlainSoRA], {"only": ["nope"]}, "unknown check 'nope'"),
        ([PlainSoRA], {"dtype": "float16"}, "expected one of these, not float16"),
    ],
)
def test_what_is_wrong_is_said_when_tests_are_collected(implementations: Any, options: Any, said: str) -> None:
    with pytest.raises(SoRAError, match=said):
        parametrize_with_checks(implementations, **options)


def test_importing_the_kit_imports_no_pytest() -> None:
    code = (
        "import sys, sora_ref.conformance as kit; print('pytest' in sys.modules, kit.parametrize_with_checks.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "parametrize_with_checks"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = kit.nothing


# --- the plugin ----------------------------------------------------------------------------------------------------


def test_plugin_is_nothing_until_it_is_asked_for(folder: Path) -> None:
    source = (
        "import sys\n"
        "def test_light(request):\n"
        "    assert {'numpy', 'hypothesis', 'sora_ref'} & set(sys.modules) <= set()\n"
        "    assert '_sora_ref_pytest' in sys.modules\n"
        "    assert request.config.pluginmanager.get_plugin('sora_ref.conformance') is None\n"
    )
    (folder / "test_light.py").write_text(source, encoding="utf-8")
    status, text = run_pytest(folder, "test_light.py")
    assert status == 0, text
    assert "SoRA" not in text


def test_every_check_is_a_test_of_the_implementation_that_is_named(folder: Path) -> None:
    arguments = ("--pyargs", "sora_ref.conformance", "--sora-max-examples", "8", "--sora-level", "core")
    status, text = run_pytest(
        folder, *arguments, "--sora-impl", "mine:Right", "--sora-seed", "7", "--sora-dtype", "float32"
    )
    lines = text.splitlines()
    assert status == 0, text
    assert sum(line.startswith("PASSED") for line in lines) == len(select("core"))
    assert any(line.startswith("SoRA: mine:Right, ") and "float32" in line and "seed 7" in line for line in lines)
    assert any(line.startswith("SoRA ") and "· core · float32 ·" in line for line in lines)

    status, text = run_pytest(folder, *arguments, "--sora-impl", "mine:Wrong")
    assert status == 1
    assert "test_sora[Wrong-SORA-PRUNE-1]" in text
    assert "formula  I = {i : g_i = 0}, no tolerance" in text
    assert "no badge: refused SORA-PRUNE-1" in text

    expected = ("--sora-expect-failure", "SORA-PRUNE-1=ticket 12")
    status, text = run_pytest(folder, *arguments, "--sora-impl", "mine:Wrong", *expected)
    assert status == 0, text
    assert "ticket 12" in text
    assert "· except SORA-PRUNE-1" in text


@pytest.mark.parametrize("arguments", [(), ("--sora-impl", "nowhere_at_all:A")])
def test_bad_options_are_one_sentence_and_wrong_usage(folder: Path, arguments: tuple[str, ...]) -> None:
    status, text = run_pytest(folder, "--pyargs", "sora_ref.conformance", *arguments)
    assert status == pytest.ExitCode.USAGE_ERROR
    (sentence,) = text.strip().splitlines()
    if arguments:
        assert sentence.startswith("ERROR: there is no module nowhere_at_all here or installed")
    else:
        assert sentence.startswith("ERROR: no implementation to check: expected --sora-impl, as in pytest --pyargs")


class Options:
    """What the plugin asks of pytest's configuration."""

    def __init__(self, **changes: Any) -> None:
        self.options: dict[str, Any] = {
            "sora_impl": "sora_ref.conformance.museum.baseline:PlainSoRA",
            "sora_level": "core",
            "sora_dtype": None,
        }
        self.options |= {"sora_seed": 0, "sora_max_examples": 1, "sora_expect_failure": []} | changes
        self.lines: list[tuple[str, str]] = []

    def getoption(self, name: str) -> Any:
        return self.options[name]

    def addinivalue_line(self, name: str, line: str) -> None:
        self.lines.append((name, line))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sora_expect_failure": ["nope=x"]}, "unknown check 'nope'"),
        ({"sora_expect_failure": ["SORA-PROX-3"]}, "expected ID=REASON"),
        ({"sora_max_examples": 0}, "--sora-max-examples is 0: expected at least 1"),
        ({"sora_impl": "json:loads"}, "expected one that needs no arguments"),
    ],
)
def test_other_bad_options_are_wrong_usage(options: dict[str, Any], said: str) -> None:
    with pytest.raises(pytest.UsageError, match=said):
        _sora_ref_pytest._load(Options(**options))  # type: ignore[arg-type]


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sora_ref.conformance")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(pytest.UsageError, match=r"hypothesis is missing\): pip install 'sora_ref\[check\]'"):
        _sora_ref_pytest._load(Options())  # type: ignore[arg-type]


def test_a_session_without_checks_says_so() -> None:
    class Terminal:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def write_sep(self, *words: str) -> None:
            self.lines.append(words[-1])

        def write_line(self, line: str) -> None:
            self.lines.append(line)

    terminal = Terminal()
    Conformance(Options()).pytest_terminal_summary(terminal)  # type: ignore[arg-type]
    assert terminal.lines[-1] == "no check was run: expected --pyargs sora_ref.conformance among the arguments"


def test_settings_of_the_users_own_do_not_hide_the_checks(folder: Path) -> None:
    settings = "[pytest]\npython_files = check_*.py\npython_functions = check_*\n"
    (folder / "pytest.ini").write_text(settings, encoding="utf-8")
    arguments = ("--pyargs", "sora_ref.conformance", "--sora-impl", "mine:Right", "--sora-max-examples", "1")
    status, text = run_pytest(folder, *arguments, "-k", "SORA-PROX-3")
    assert status == 0, text
    assert "1 passed" in text
    assert "checks of level core were not run" in text


def test_this_repository_does_not_collect_the_checks() -> None:
    root = Path(__file__).resolve().parents[2]
    assert 'testpaths = ["tests"]' in (root / "pyproject.toml").read_text(encoding="utf-8")
    assert (root / "sora_ref/conformance/frontends/test_conformance.py").is_file()
