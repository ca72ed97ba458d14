"""What people expect to find beside the code: it says what is true of the rest of the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import sora_ref

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
YAML = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    (found,) = re.findall(rf"(?m)^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    return str(found)


def make_targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))


def made(text: str) -> set[str]:
    """The targets of the Makefile that a script asks for: `make --jobs 2 one two  # why`."""
    calls = re.findall(r"(?m)^ *(?:- run: )?make ([^#\n]+)", text)
    return {word for call in calls for word in call.split() if re.fullmatch(r"[a-z][a-z-]*", word)}


@pytest.mark.parametrize("path", YAML, ids=lambda path: str(path.relative_to(ROOT)))
def test_configuration_of_a_host_or_a_tool_is_a_mapping(path: Path) -> None:
    assert isinstance(read_yaml(path), dict)


def test_every_commit_is_checked_by_the_pinned_ruff() -> None:
    (ruff,) = [each for each in read_yaml(ROOT / ".pre-commit-config.yaml")["repos"] if "ruff" in each["repo"]]
    assert ruff["rev"] == f"v{pinned('ruff')}"


def test_hosted_checks_ask_for_targets_that_there_are_and_for_every_supported_python() -> None:
    jobs = read_yaml(ROOT / ".github/workflows/checks.yml")["jobs"]
    scripts = "\n".join(f"- run: {step['run']}" for job in jobs.values() for step in job["steps"] if "run" in step)
    assert {"lint", "test", "test-deep", "docs"} <= made(scripts) <= make_targets()
    matrix = jobs["test"]["strategy"]["matrix"]["python"]
    assert PROJECT["project"]["requires-python"] == f">={matrix[0]}"
    assert all(job["timeout-minutes"] for job in jobs.values())


def test_local_checks_ask_for_targets_that_there_are() -> None:
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert {"lint", "test", "test-deep", "oracles", "docs", "mutants-sample", "soak-quick", "demo-quick"} <= made(
        script
    )
    assert made(script) <= make_targets()


def test_issue_forms_ask_for_something() -> None:
    for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"):
        if path.stem == "config":
            continue
        form = read_yaml(path)
        assert {"name", "description", "body"} <= form.keys()
        assert len({part["id"] for part in form["body"]}) == len(form["body"])
        assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_citation_is_of_this_version_and_names_the_paper() -> None:
    """The keys are those that version 1.2.0 of the Citation File Format requires, and those it knows."""
    citation = read_yaml(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == sora_ref.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    (paper,) = citation["references"]
    assert "2311.11696" in (ROOT / "docs/references.md").read_text(encoding="utf-8")
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2311.11696"}]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Ding",
        "Lv",
        "Wang",
        "Chen",
        "Zhou",
        "Liu",
        "Sun",
    ]


def test_what_releasing_and_security_point_at_exists() -> None:
    for name in ("RELEASING.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert set(re.findall(r"`make ([a-z-]+)`", text)) <= make_targets()
        assert [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not (ROOT / link).exists()] == []


def test_lines_are_as_long_as_the_editor_is_told() -> None:
    (told,) = re.findall(r"(?m)^max_line_length = (\d+)$", (ROOT / ".editorconfig").read_text(encoding="utf-8"))
    assert int(told) == PROJECT["tool"]["ruff"]["line-length"]
