"""The README says what the code does: settings, commands and files that it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rna_watch.cli import app
from rna_watch.config import RunConfig
from rna_watch.options import plain
from tests.benchmarks import readme

README = Path(__file__).parents[1] / "README.md"


def _shown(value: object) -> str:
    return "-" if value is None or value == () else plain(value)


@pytest.mark.parametrize("name", RunConfig.model_fields)
def test_every_setting_stands_in_the_readme_with_its_default(name: str) -> None:
    """The table of settings is that of the code."""
    field = RunConfig.model_fields[name]
    assert f"| `{name}` | {_shown(field.default)} | {field.description} |" in README.read_text()


def test_every_command_of_the_readme_exists() -> None:
    """`rna-watch NAME` is a command of the program wherever the README writes it so."""
    named = set(re.findall(r"^rna-watch (\w+)", README.read_text().partition("```sh")[2], re.MULTILINE))
    assert named
    assert named <= set(app.commands)


def test_every_file_that_is_linked_exists() -> None:
    """Relative links lead somewhere."""
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target


@pytest.mark.parametrize("name", readme.NAMES)
def test_the_tables_of_experiments_are_those_of_the_kept_results(name: str) -> None:
    """`python -m tests.benchmarks readme` would change nothing."""
    text = README.read_text()
    assert readme.written(text, name) == text


def test_a_readme_without_its_marks_is_left_alone() -> None:
    """A missing mark is an error, and nothing is cut off."""
    with pytest.raises(ValueError, match="not found"):
        readme.written("text <!-- networks: begin -->\n more text", "networks")
