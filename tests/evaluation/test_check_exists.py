"""Whether an evaluator's function exists is told from the text of its file, where that can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rna_watch.errors import UsageError
from rna_watch.evaluation.evaluator import check_exists

if TYPE_CHECKING:
    from pathlib import Path

DEFINES = {
    "def": "def evaluate(s, d): ...",
    "async": "async def evaluate(s, d): ...",
    "class": "class evaluate: ...",
    "assignment": "evaluate = lambda s, d: {}",
    "annotated": "evaluate: object = print",
    "several": "a, (evaluate, b) = 1, (2, 3)",
    "walrus": "if (evaluate := print): pass",
    "import": "from os import path as evaluate",
    "module": "import evaluate.inner",
    "condition": "try:\n    import numpy\nexcept ImportError:\n    numpy = None\nelse:\n    def evaluate(s, d): ...",
    "loop": "for evaluate in [print]: ...",
    "with": "with open('x') as evaluate: ...",
    "match": "match 1:\n    case evaluate: ...",
    "global": "def make():\n    global evaluate\n    evaluate = print\nmake()",
}
UNDECIDABLE = {
    "star": "from os.path import *",
    "globals": "globals()['evaluate'] = print",
    "exec": "exec('def evaluate(s, d): ...')",
    "getattr": "def __getattr__(name): return print",
    "syntax": "def evaluate(:",
}
MISSING = {
    "empty": "",
    "other": "def evalute(s, d): ...",
    "inner": "def make():\n    def evaluate(s, d): ...",
    "method": "class Judge:\n    def evaluate(self, s, d): ...",
    "local": "def make():\n    evaluate = 1",
    "read": "print(evaluate)",
    "attribute": "import os\nos.evaluate = 1",
}


def _file(folder: Path, text: str) -> str:
    file = folder / "judge.py"
    file.write_text(f"raise SystemExit('executed')\n{text}\n" if text != UNDECIDABLE["syntax"] else text)
    return f"{file}:evaluate"


@pytest.mark.parametrize("text", [*DEFINES.values(), *UNDECIDABLE.values()], ids=[*DEFINES, *UNDECIDABLE])
def test_what_may_be_defined_is_left_to_the_evaluator_s_process(tmp_path: Path, text: str) -> None:
    """Every way of giving a module a name, and code that only its execution can tell of; nothing is executed."""
    check_exists(_file(tmp_path, text))


@pytest.mark.parametrize("text", MISSING.values(), ids=MISSING)
def test_what_is_not_defined_is_wrong_usage(tmp_path: Path, text: str) -> None:
    """The file and the name are in the message, and a near one where there is any."""
    with pytest.raises(UsageError, match="has no function 'evaluate'") as error:
        check_exists(_file(tmp_path, text))
    assert ("did you mean 'evalute'?" in str(error.value)) == (text == MISSING["other"])
