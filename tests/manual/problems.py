"""The problems that the daemon's source reports: their keys, and what they say as far as the source spells it out."""

from __future__ import annotations

import ast
import importlib
from typing import TYPE_CHECKING, NamedTuple

from rna_watch.acceleration.methods import LAYERED, METHODS
from rna_watch.journal.hooks import HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# keys that are no constants, by how the source writes them: what they are then
MADE = {
    "method": ("trained", LAYERED),
    "due.hook": HOOKS,
    "failure.key": (),  # of a `Failure`, whose keys are found by themselves
    "key": (),  # of whoever calls `Recorder.problem` or `Acts.do`
}
assert "trained" in METHODS
_EDGES = " :;,()'"


class Problem(NamedTuple):
    """A place where a problem is reported: what tells it, the words that it is sure to have, and whether it is an act's."""

    where: str
    keys: tuple[str, ...]
    words: tuple[str, ...]
    act: bool


def problems(package: Path) -> Iterator[Problem]:
    """Those of `recorder.problem(key, what, remedy)`, `Problem(...)`, `Failure(...)` and `acts.do(key, what, act)`."""
    for path in sorted((package / "daemon").glob("*.py")):
        module = importlib.import_module(f"rna_watch.daemon.{path.stem}")
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in {"problem", "Problem", "Failure", "do"}:
                continue
            given = {each.arg: each.value for each in node.keywords}
            key = node.args[0] if node.args else given.get("key")
            what = node.args[1] if len(node.args) > 1 else given.get("what")
            if key is not None:
                keys = _keys(key, module)
                yield Problem(f"{path.name}:{node.lineno}", keys, tuple(_words(what)), name == "do")


def _keys(node: ast.expr, module: object) -> tuple[str, ...]:
    """The keys that an expression may be; a made one is its constant beginning and NAME."""
    if isinstance(node, ast.Constant):
        return (str(node.value),)
    if isinstance(node, ast.JoinedStr):
        return ("".join(str(part.value) if isinstance(part, ast.Constant) else "NAME" for part in node.values),)
    written = ast.unparse(node)
    if written in MADE:
        return tuple(MADE[written])
    return (str(getattr(module, written)),)


def _words(node: ast.expr | None) -> Iterator[str]:
    """The constant parts of a text."""
    for part in ast.walk(node) if node is not None else ():
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value.strip(_EDGES)) >= 8:
            yield part.value.strip(_EDGES)
