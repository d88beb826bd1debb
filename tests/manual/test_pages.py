"""Every page can be read: it says who needs it, its links lead somewhere, its tables are whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from rna_watch.cli import app
from tests.manual.generated import DOCS, ROOT
from tests.manual.pages import PAGES, anchors, blocks, links, name_of, tables, text_of

if TYPE_CHECKING:
    from pathlib import Path

EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name_of)


def test_the_readme_is_one_page() -> None:
    """At most 8 KB, with a picture."""
    assert len(text_of(ROOT / "README.md").encode()) <= 8192
    assert "](docs/results/dashboard.svg)" in text_of(ROOT / "README.md")


@pytest.mark.parametrize("page", PAGES[1:], ids=name_of)
def test_a_page_begins_with_who_needs_it(page: Path) -> None:
    """A title, then a sentence that names its readers."""
    assert re.match(r"# .+\n\nFor \w+\b", text_of(page)), text_of(page)[:200]


@EVERY_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files and folders exist, and headings of pages do."""
    for target in links(page):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_every_page_stands_in_the_index() -> None:
    """docs/README.md links all pages."""
    named = {(DOCS / target.partition("#")[0]).resolve() for target in links(DOCS / "README.md")}
    assert set(PAGES[1:]) - {DOCS / "README.md"} <= named


@EVERY_PAGE
def test_every_row_of_a_table_has_its_cells(page: Path) -> None:
    """As many in each row as in the heading, the second row is dashes, and no code is cut in two."""
    for table in tables(page):
        assert all(re.fullmatch(r":?-+:?", cell) for cell in table[1]), table[:2]
        for row in table:
            assert len(row) == len(table[0]), row
            assert all(cell.count("`") % 2 == 0 for cell in row), row


@EVERY_PAGE
def test_every_command_exists(page: Path) -> None:
    """`rna-watch NAME` is a command of the program, with the options that are written."""
    shell = "\n".join(block.text for block in blocks(page) if block.language in {"sh", ""})
    inline = "\n".join(re.findall(r"`([^`\n]+)`", text_of(page)))
    for name, rest in re.findall(r"^(?:.*[&|;] ?)?rna-watch ([a-z]+)\b(.*)$", f"{shell}\n{inline}", re.MULTILINE):
        assert name in app.commands, name
        known = {option for parameter in app.commands[name].params for option in parameter.opts}
        given = set(re.findall(r"(?<=\s)--[a-z-]+", rest.partition("#")[0].partition("--evaluate-command")[0]))
        assert given <= known | {"--help"}, (name, rest)
