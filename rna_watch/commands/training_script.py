"""The training script: which class or call of the Python files at hand made the network; read, never run.

A file is imported by the evaluator only if its import trains nothing; from others the definitions that are needed are copied.
"""

from __future__ import annotations

import ast
import builtins
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set

_MOST_FILES = 300
_MOST_BYTES = 2**20
_HELD_OUT = re.compile(r"(?:^|_)(?:val|valid|validation|test|eval|dev|held|heldout)(?:_|$|\d)", re.IGNORECASE)
_PLACED = {"to", "cuda", "cpu", "double", "float", "half", "train", "eval", "requires_grad_"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """How the network is made.

    `lines` define what `expression` needs: imports, or copies of definitions. `expression` is "" where the network's class is
    known but not how it was called; `shown` is the call as the script has it.
    """

    file: Path
    name: str
    lines: tuple[str, ...] = ()
    expression: str = ""
    shown: str = ""
    copied: bool = False
    methods: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed file of the user's."""

    path: Path
    text: str
    tree: ast.Module
    constants: dict[str, Any] = field(default_factory=dict)

    def hints(self) -> list[str]:
        """Where the script makes data that look held out: file, line, and the line's text."""
        found = []
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Assign | ast.FunctionDef):
                continue
            names = [
                each.id
                for target in getattr(node, "targets", ())
                for each in ast.walk(target)
                if isinstance(each, ast.Name)
            ]
            names += [node.name] if isinstance(node, ast.FunctionDef) else []
            if any(_HELD_OUT.search(name) for name in names):
                line = self.text.splitlines()[node.lineno - 1].strip()
                found.append(f"{self.path.name}, line {node.lineno}: {line[:100]}")
        return found


def scripts(folder: Path) -> list[Script]:
    """The Python files in a folder and in the folders below it that can be parsed, the nearest first."""
    found = []
    paths = sorted((*folder.glob("*.py"), *folder.glob("[!.]*/*.py")), key=lambda path: (len(path.parts), path.name))
    for path in paths[:_MOST_FILES]:
        try:
            if path.stat().st_size > _MOST_BYTES:
                continue
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (OSError, ValueError, SyntaxError, RecursionError):
            continue
        found.append(Script(path, text, tree, _constants(tree)))
    return found


def _constants(tree: ast.Module) -> dict[str, Any]:
    """Names that stand for one plain value in the whole file, and the defaults of its command line as `name.option`."""
    values: dict[str, list[Any]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(_value(node.value))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            options = [
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            default = next((_value(each.value) for each in node.keywords if each.arg == "default"), ...)
            for option in options:
                values.setdefault(f".{option.lstrip('-').replace('-', '_')}", []).append(default)
    return {name: found[0] for name, found in values.items() if len(found) == 1 and found[0] is not ...}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return ...


def network(found: list[Script], attributes: Set[str], settings: Mapping[str, Any], base: str = "") -> Source | None:
    """How the network of a checkpoint is made, if a script tells.

    Args:
        found: the scripts.
        attributes: the first parts of the names in the state dict.
        settings: what the checkpoint recorded; it stands for arguments of the command line.
        base: the network's class has a base of this name, and is made from `settings` alone ("": any, as the script makes it).
    """
    for script in found:
        for node in script.tree.body:
            if isinstance(node, ast.ClassDef) and base and _bases(node) & {base} and _fits(node, script, attributes):
                return _made_from(node, script, settings)
        if base:
            continue
        for expression in _saved(script):
            source = _source(expression, script, settings, attributes)
            if source is not None:
                return source
        for node in script.tree.body:
            if isinstance(node, ast.ClassDef) and _fits(node, script, attributes):
                call = next((each for each in ast.walk(script.tree) if _calls(each, node.name)), None)
                made = call if isinstance(call, ast.Call) else ast.Call(ast.Name(node.name), [], [])
                source = _source(made, script, settings, attributes)
                return source or Source(file=script.path, name=node.name, shown=ast.unparse(made))
    return None


def data_module(found: list[Script], settings: Mapping[str, Any]) -> Source | None:
    """The only class of Lightning's data modules in the scripts, made from what the checkpoint recorded."""
    classes = [
        (node, script)
        for script in found
        for node in script.tree.body
        if isinstance(node, ast.ClassDef) and "LightningDataModule" in _bases(node)
    ]
    return _made_from(*classes[0], settings) if len(classes) == 1 else None


def _made_from(node: ast.ClassDef, script: Script, settings: Mapping[str, Any]) -> Source:
    """A class called with those of the settings that it takes."""
    begin = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
    taken = dict(settings)
    if begin is not None and begin.args.kwarg is None:
        names = {each.arg for each in (*begin.args.args[1:], *begin.args.kwonlyargs)}
        taken = {name: value for name, value in settings.items() if name in names}
    keywords = ", ".join(f"{name}={value!r}" for name, value in taken.items())
    lines, copied = _definitions(script, {node.name})
    return Source(
        file=script.path,
        name=node.name,
        lines=lines,
        expression=f"{node.name}({keywords})",
        copied=copied,
        methods=frozenset(each.name for each in node.body if isinstance(each, ast.FunctionDef)),
    )


def _bases(node: ast.ClassDef) -> set[str]:
    return {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in node.bases}


def _fits(node: ast.ClassDef, script: Script, attributes: Set[str]) -> bool:
    """Whether a class sets all attributes that the state dict has, itself or by a base in the same file."""
    classes = {each.name: each for each in script.tree.body if isinstance(each, ast.ClassDef)}
    found: set[str] = set()
    waiting, seen = [node], set()
    while waiting:
        each = waiting.pop()
        if each.name in seen:
            continue
        seen.add(each.name)
        found |= {
            target.attr
            for target in ast.walk(each)
            if isinstance(target, ast.Attribute)
            and isinstance(target.ctx, ast.Store)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
        }
        found |= {  # register_buffer("name", ...), self.register_parameter(...), self.add_module(...)
            call.args[0].value
            for call in ast.walk(each)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in {"register_buffer", "register_parameter", "add_module", "register_module"}
            and call.args
            and isinstance(call.args[0], ast.Constant)
            and isinstance(call.args[0].value, str)
        }
        waiting += [classes[name] for name in _bases(each) if name in classes]
    return bool(attributes) and attributes <= found


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _saved(script: Script) -> Iterator[ast.expr]:
    """What was assigned to the names whose `state_dict()` the script takes."""
    names = [
        node.func.value.id
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "state_dict"
        and isinstance(node.func.value, ast.Name)
    ]
    for name in dict.fromkeys(names):
        for node in ast.walk(script.tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                assert isinstance(node, ast.Assign)
                yield _bare(node.value)


def _bare(node: ast.expr) -> ast.expr:
    """A call without the `.to(device)` behind it."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PLACED:
        node = node.func.value
    return node


class _Known(ast.NodeTransformer):
    """Puts plain values in the place of names and of `args.width`, `config["width"]` that are known."""

    def __init__(self, constants: Mapping[str, Any], settings: Mapping[str, Any], defined: Set[str]) -> None:
        self._constants, self._settings, self._defined = constants, settings, defined

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name that stands for one value."""
        known = node.id in self._constants and node.id not in self._defined
        return ast.Constant(self._constants[node.id]) if known else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """An argument of the command line, as it was recorded, else as it is by default."""
        if isinstance(node.value, ast.Name) and node.value.id not in self._defined:
            for key, values in ((node.attr, self._settings), (f".{node.attr}", self._constants)):
                if key in values:
                    return ast.Constant(values[key])
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """A setting by its key."""
        key = node.slice.value if isinstance(node.slice, ast.Constant) else None
        return ast.Constant(self._settings[key]) if isinstance(key, str) and key in self._settings else node


def _source(expression: ast.expr, script: Script, settings: Mapping[str, Any], attributes: Set[str]) -> Source | None:
    """An expression of a script as the evaluator can have it; None if it makes no network of these attributes."""
    if not isinstance(expression, ast.Call):
        return None
    defined = _top_level(script.tree)
    shown = ast.unparse(expression)
    head = expression.func.id if isinstance(expression.func, ast.Name) else ""
    node = defined.get(head)
    if isinstance(node, ast.ClassDef) and not _fits(node, script, attributes):
        return None
    made = _Known(script.constants, settings, set(defined)).visit(ast.parse(shown, mode="eval").body)
    free = _free(made)
    if not free <= defined.keys() | set(dir(builtins)):
        return Source(file=script.path, name=head or shown, shown=shown)
    lines, copied = _definitions(script, free & defined.keys())
    return Source(
        file=script.path, name=head or shown, lines=lines, expression=ast.unparse(made), shown=shown, copied=copied
    )


def _top_level(tree: ast.Module) -> dict[str, ast.stmt]:
    """What the file defines at its top: imports, functions, classes, names of plain values."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom():
                found |= {alias.asname or alias.name.partition(".")[0]: node for alias in node.names}
            case ast.FunctionDef() | ast.ClassDef():
                found[node.name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) if _value(node.value) is not ...:
                found[name] = node
    return found


def _free(node: ast.AST) -> set[str]:
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    stored = {each.id for each in names if isinstance(each.ctx, ast.Store)}
    bound = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
    return {each.id for each in names if isinstance(each.ctx, ast.Load)} - stored - bound


def _trains_nothing(tree: ast.Module) -> bool:
    """Whether importing a file only defines things."""
    for node in tree.body:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                continue
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value) if _value(value) is not ...:
                continue
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
        return False
    return True


def _definitions(script: Script, wanted: Set[str]) -> tuple[tuple[str, ...], bool]:
    """Lines that define names as a script does: an import of it, or copies where its import would train."""
    names = sorted(wanted)
    module = script.path.stem
    if _trains_nothing(script.tree) and module.isidentifier() and names:
        line = f"from {module} import {', '.join(names)}"
        nearby = script.path.parent.resolve() == Path.cwd()
        return (line,) if nearby else (f"sys.path.append({str(script.path.parent.resolve())!r})", line), False
    defined = _top_level(script.tree)
    nodes: dict[int, ast.stmt] = {}
    waiting = list(names)
    while waiting:
        node = defined.get(waiting.pop())
        if node is not None and id(node) not in nodes:
            nodes[id(node)] = node
            waiting += _free(node) | {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    text = script.text.splitlines()
    lines: list[str] = []
    for node in sorted(nodes.values(), key=lambda each: each.lineno):
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        block = isinstance(node, ast.FunctionDef | ast.ClassDef)
        lines += ["", ""] * block + text[first - 1 : node.end_lineno] + ["", ""] * block
    return tuple(lines), True
