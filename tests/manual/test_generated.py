"""The parts of the manual that are made from code and kept results are those of today."""

from __future__ import annotations

import pytest

from rna_watch.config import RunConfig
from tests.manual.generated import PARTS, ROOT, cell, written


@pytest.mark.parametrize("name", PARTS)
def test_the_committed_part_is_the_one_that_is_generated(name: str) -> None:
    """`python -m tests.manual` would change nothing."""
    text = (ROOT / PARTS[name][0]).read_text()
    assert written(text, name) == text, "run python -m tests.manual"


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_every_setting_stands_in_its_page(name: str) -> None:
    """A row of the table begins with the setting, and ends with its meaning."""
    rows = [row for row in (ROOT / "docs/settings.md").read_text().splitlines() if row.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert rows[0].endswith(f" | {cell(RunConfig.model_fields[name].description or '')} |")


def test_a_page_without_its_marks_is_left_alone() -> None:
    """A missing mark is an error, and nothing is cut off."""
    with pytest.raises(ValueError, match="not found"):
        written("text <!-- networks: begin -->\n more text", "networks")


def test_no_text_ends_a_cell_or_begins_a_tag() -> None:
    """A bar is escaped everywhere, `<` outside of code."""
    assert cell("sum of |c|, `a|b <x>`, <y>") == r"sum of \|c\|, `a\|b <x>`, &lt;y>"
