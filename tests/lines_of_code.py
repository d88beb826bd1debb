"""Lines of code of the package, without docstrings, comments and blank lines: `python -m tests.lines_of_code`."""

from __future__ import annotations

import ast
import io
import statistics
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "rna_watch"
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def lines_of_code(source: str) -> int:
    """How many lines of a module's text hold code; each line of a text in several lines counts, but for docstrings."""
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NOT_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match node.body:
                case [ast.Expr(value=ast.Constant(value=str())) as text, *_]:
                    code -= set(range(text.lineno, text.end_lineno + 1))
    return len(code)


def main() -> None:
    """Print the count of every folder, and of all."""
    files = sorted(PACKAGE.rglob("*.py"))
    counts: dict[str, int] = {}
    for file in files:
        room = file.relative_to(PACKAGE).parts[0]
        counts[room] = counts.get(room, 0) + lines_of_code(file.read_text())
    for room, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        print(f"{count:7,}  {room}")
    lengths = [len(file.read_text().splitlines()) for file in files]
    print(f"{sum(counts.values()):7,}  in all")
    print(f"{statistics.median(lengths):7g}  lines of a module in the median, {max(lengths)} at most")


if __name__ == "__main__":
    main()
