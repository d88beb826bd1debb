"""The commands' house: a room for each, and a front door that only lets in and out."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from rna_watch import cli

LONGEST = 12
OF_THE_DOOR = {"completion", "man"}  # they print what the front door itself is made of


@pytest.mark.parametrize("name", [each for each in cli.app.commands if each not in OF_THE_DOOR])
def test_every_command_has_a_room_of_its_own(name: str) -> None:
    """What a command does lies in the module of its name."""
    assert importlib.util.find_spec(f"rna_watch.commands.{name}") is not None


def test_the_front_door_only_parses_calls_and_prints() -> None:
    """No command of `cli` takes more than a dozen lines, its head and docstring not counted."""
    functions = {
        n.name: n.body for n in ast.parse(Path(cli.__file__).read_text()).body if isinstance(n, ast.FunctionDef)
    }
    for name in cli.app.commands:
        _, first, *rest = functions[name]
        lines = (rest[-1] if rest else first).end_lineno - first.lineno + 1
        assert lines <= LONGEST, f"{name}: {lines} lines"
