"""The book's layout and its pages: what can be said of them without a browser."""

from __future__ import annotations

import re
from pathlib import Path

from sora_ref.cli.commands import cli

DOCS = Path(__file__).resolve().parent.parent / "docs"


def rules(selector: str) -> dict[str, str]:
    """The declarations for a selector in our own style sheet, those of a list of selectors included."""
    text = re.sub(r"/\*.*?\*/", "", (DOCS / "_static" / "book.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, str] = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", text):
        if selector in [one.strip() for one in selectors.split(",")]:
            pairs = (line.partition(":") for line in body.split(";") if ":" in line)
            found |= {name.strip(): value.strip() for name, _, value in pairs}
    return found


def test_text_of_the_book_gives_way_where_the_window_is_narrow() -> None:
    """Beside two columns of 15em, a text that may not shrink is cut off, or pushes the contents out, below 90em."""
    content = rules(".content")
    assert content["box-sizing"] == "border-box"  # its padding is within its width
    assert (content["min-width"], content["max-width"]) == ("0", "100%")
    grow, shrink, basis = content["flex"].split()
    assert (grow, basis) == ("0", content["width"])
    assert float(shrink) > 0
    assert rules(".main")["min-width"] == "0"
    for drawer in (".sidebar-drawer", ".toc-drawer"):
        assert rules(drawer)["flex-shrink"] == "0"


def test_page_of_the_command_line_has_every_command() -> None:
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"\.\. click:: (.*)", page) == ["sora_ref.cli.commands:cli"]
    (listed,) = re.findall(r":commands: (.*)", page)
    assert set(listed.split(", ")) == set(cli.commands)


def test_every_page_of_the_book_is_in_its_contents() -> None:
    contents = re.search(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    assert contents is not None
    listed = {line.strip() for line in contents[1].splitlines() if line.strip() and not line.startswith(":")}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - {"index"}
    assert {page for page in pages if not page.startswith("examples/")} == listed
