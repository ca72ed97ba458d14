"""Sphinx's configuration: every code cell runs when the book is built; one that fails or warns fails the build."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from math_core import LatexToMathML
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import sora_ref

SUPPORT = str(Path(__file__).resolve().parents[1] / "tests" / "support")
sys.path.insert(0, SUPPORT)
import docstrings  # noqa: E402 - found on the path that the line above extends

project = "sora_ref"
author = "the sora_ref authors"
version = sora_ref.SPEC_VERSION
release = sora_ref.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_click"]
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Array": "Array"}  # which is `Any` to Python
exclude_patterns = ["examples"]
smartquotes = False
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"sora_ref: the specification, version {version}"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "warn"
nb_render_markdown_format = "myst"

# What the cells' kernels see: the tests' support, and the python3 kernel of this very environment.
os.environ["PYTHONPATH"] = os.pathsep.join([SUPPORT, *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

CLAUSE = re.compile(r"\bSORA-[A-Z]+-\d+\b")
ALIAS = re.compile(r"(?:~?\w+\.)*TypeAliasForwardRef\('(\w+)'\)")
MATHML = LatexToMathML()


def formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write LaTeX as MathML, which browsers show by themselves: no script, no network; LaTeX that is wrong raises."""
    translator.body.append(
        MATHML.convert_with_local_state(node.astext(), displaystyle=isinstance(node, nodes.math_block))
    )
    raise nodes.SkipNode


def link_clauses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make every clause's id in bold, which begins it in spec.md, a target, and every other mention a link to it."""
    for text in list(doctree.findall(nodes.Text)):
        if isinstance(text.parent, nodes.strong):
            text.parent["ids"] += [clause.lower() for clause in CLAUSE.findall(text.astext()) if docname == "spec"]
        elif not isinstance(text.parent, nodes.literal | nodes.literal_block | nodes.reference | nodes.title):
            text.parent.replace(text, list(linked(text.astext(), app.builder.get_relative_uri(docname, "spec"))))


def link_sources(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Lead from a clause to its function and its law within the book; in the repository these links are files."""
    if docname != "spec":
        return
    known = app.env.get_domain("py").data["objects"]
    for node in list(doctree.findall(addnodes.download_reference)):
        target, text = node["reftarget"].removeprefix("../"), node.astext()
        if target.startswith("tests/"):
            page, place = "laws", text.replace(" ", "-")
        else:
            module = target.removesuffix(".py").replace("/", ".")
            names = [f"{owner}.{text}" for owner in ("sora_ref", module.rpartition(".")[0], module)]
            place = next((name for name in names if name in known), "")
            page = "api" if place else f"_modules/{target.removesuffix('.py')}"
        uri = app.builder.get_relative_uri(docname, page)
        node.replace_self(nodes.reference("", "", *node.children, refuri=f"{uri}#{place}" if place else uri))


def linked(text: str, spec: str) -> Iterator[nodes.Node]:
    """The text in pieces, each clause's id a reference into the page `spec`."""
    end = 0
    for found in CLAUSE.finditer(text):
        yield nodes.Text(text[end : found.start()])
        yield nodes.reference("", found[0], refuri=f"{spec}#{found[0].lower()}", classes=["clause"])
        end = found.end()
    yield nodes.Text(text[end:])


def plain_defaults(app: Sphinx, context: object, lines: list[str]) -> None:
    """Show defaults as they are typed: sphinx-click shows Python's repr, 'full' and PosixPath('runs')."""
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"(:default: ``)(?:\w+\()?'([^']*)'\)?``", r"\1\2``", line)


def restructure(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText; the docstring of a value stands under its assignment."""
    if what == "data":
        lines[:] = docstrings.of_values()[name.rpartition(".")[2]].splitlines()
    lines[:] = docstrings.restructured(lines, sora_ref.__all__)


def short_aliases(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Show an alias within a union as its name: Sphinx 9 shows TypeAliasForwardRef('Array') | None."""
    names = [None if text is None else ALIAS.sub(r"\1", text) for text in (signature, result)]
    return names[0], names[1]


def setup(app: Sphinx) -> None:
    """Register these functions."""
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.connect("autodoc-process-docstring", restructure)
    app.connect("autodoc-process-signature", short_aliases)
    app.connect("doctree-resolved", link_clauses)
    app.connect("doctree-resolved", link_sources)
    app.connect("sphinx-click-process-options", plain_defaults)
