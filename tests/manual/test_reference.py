"""What programs and people look up is all there: manifest keys, `status --json`, stages, exit codes, problems."""

from __future__ import annotations

import ast
import dataclasses
import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rna_watch import errors
from rna_watch.acceleration.diagnostics import Diagnostics
from rna_watch.commands import status
from rna_watch.daemon import annealed
from rna_watch.journal.cooled import Cooled
from rna_watch.journal.heartbeat import Worker
from rna_watch.journal.records import VERSION
from rna_watch.journal.replay import Stage
from rna_watch.publishing import manifest, products
from tests.manual.generated import DOCS, ROOT
from tests.manual.pages import tables, text_of
from tests.manual.problems import Problem, problems

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = DOCS / "reference.md"
PROBLEMS = list(problems(ROOT / "rna_watch"))


def _first_cells(page: Path, heading: str) -> list[set[str]]:
    """The names in the first column of each table with this heading."""
    found = [table for table in tables(page) if table[0][0] == heading]
    return [{name for row in table[2:] for name in row[0].replace("`", "").split(", ")} for table in found]


def _dictionaries(module: Any, function: str) -> Iterator[dict[str, ast.expr]]:
    """The dictionaries that a function of a module spells out, by their constant keys."""
    tree = ast.parse(Path(module.__file__).read_text())
    [body] = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == function]
    for node in ast.walk(body):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield {key.value: value for key, value in pairs if isinstance(key, ast.Constant)}


def test_every_key_of_a_manifest_is_there() -> None:
    """Those of any model, those of a trained one and of a product, and the diagnostics."""
    keys, trained, multiplied, numbers, *_ = _first_cells(REFERENCE, "key")
    assert keys == next(_dictionaries(manifest, "describe")).keys()
    assert trained == next(each for each in _dictionaries(annealed, "branches") if "digest" in each).keys()
    assert multiplied == next(each for each in _dictionaries(products, "make") if "cross_term" in each).keys()
    assert numbers == {field.name for field in dataclasses.fields(Diagnostics)}
    assert f"schema {manifest.SCHEMA} where one row" in text_of(REFERENCE)


def test_every_key_of_the_status_is_there() -> None:
    """The object's own, and those of what lies in it, named in its row."""
    [rows] = [table for table in tables(REFERENCE) if table[0][0] == "key" and table[2][0] == "`run`"]
    shown = {row[0].strip("`"): row[1] for row in rows[2:]}
    outer = next(_dictionaries(status, "as_dict"))
    assert shown.keys() == outer.keys()
    assert isinstance(outer["checkpoints"], ast.ListComp)
    inner = {
        "best": next(_dictionaries(status, "_best")),
        "best_original": next(_dictionaries(status, "_original")),
        "series": next(_dictionaries(status, "_series")),
        "checkpoints": [key.value for key in outer["checkpoints"].elt.keys],
        "cooled_down": [field.name for field in dataclasses.fields(Cooled)],
        "workers": [field.name for field in dataclasses.fields(Worker)],
    }
    for key, names in inner.items():
        for name in names:
            assert f"`{name}`" in shown[key], (key, name)


def test_every_stage_of_a_checkpoint_is_there() -> None:
    """The words of `state` in `status --json`."""
    assert {str(stage) for stage in Stage} in _first_cells(REFERENCE, "state")


def test_every_exit_code_is_there() -> None:
    """Those of the errors, those with which the program ends, and no other."""
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    codes = {each.exit_code for each in classes if issubclass(each, errors.RnaWatchError)}
    source = ast.parse((ROOT / "rna_watch/cli.py").read_text())
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.exit"]
    codes |= {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)} | {0}
    assert codes == errors.EXIT_CODES.keys()
    assert {str(code) for code in codes} in _first_cells(REFERENCE, "code")


def test_the_version_of_the_journal_is_there() -> None:
    """Events themselves are a part that is generated."""
    assert f"format version {VERSION} (`v`)" in text_of(REFERENCE)


@pytest.mark.parametrize("problem", PROBLEMS, ids=[each.where for each in PROBLEMS])
def test_every_problem_is_among_the_messages(problem: Problem) -> None:
    """Its key has a row, and what it says for sure stands there."""
    rows = [row for table in tables(DOCS / "messages.md") if table[0][0] == "key" for row in table[2:]]
    for key in problem.keys:
        said = [row[1].replace("`", "") for row in rows if key in row[0].replace("`", "").split(", ")]
        assert said, key
        for words in problem.words:
            assert any(words in each for each in said), (key, words)


def _texts() -> str:
    """Every text in the package's source, with a mark where a value goes in."""
    found = []
    for path in (ROOT / "rna_watch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join([*found, os.strerror(errno.ENOSPC)])


def test_every_message_of_the_page_is_one_of_the_program() -> None:
    """Its parts between values stand in the source; no message of yesterday is explained."""
    [rows] = [table for table in tables(DOCS / "messages.md") if table[0][0] == "message"]
    said = [message for row in rows[2:] for message in re.findall(r"`([^`]+)`", row[0])]
    assert len(said) > len(rows)
    texts = _texts()
    for message in said:
        for part in re.split(r"\.\.\.|: |\b[A-Z]+\b|'", message):
            words = part.strip(" :;,()")
            assert len(words) < 8 or words in texts, (message, words)
