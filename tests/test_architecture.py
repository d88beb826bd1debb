"""The house: imports point down only, third-party gates hold, importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rna_watch"
LEVELS = [
    {"errors", "__init__"},
    {"acceleration", "config"},
    {"checkpoints", "training"},
    {"watching", "journal", "evaluation", "engine"},
    {"dashboard", "comparison"},
    {"daemon"},
    {"demo", "reproduce"},
    {"cli"},
    {"__main__"},
]
# who may import a library; every other library is free
GATES = {
    "ray": ("engine/ray_engine.py",),
    "watchdog": ("watching/hints.py",),
    "rich": ("dashboard/", "comparison/", "demo/", "reproduce/", "cli.py"),
    "matplotlib": ("comparison/", "reproduce/"),
    "torch": ("evaluation/", "demo/", "training/", "reproduce/"),
    "click": ("cli.py",),
    "yaml": ("config.py",),
    "pydantic": ("config.py",),
    "sklearn": ("demo/", "reproduce/"),
    "scipy": ("reproduce/",),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _level(part: str) -> int:
    return next(number for number, parts in enumerate(LEVELS) if part in parts)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_point_down_only(path: Path) -> None:
    """A module imports from its own level or from those below, never from above."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for imported in _imports(path):
        parts = imported.split(".")
        if (
            parts[0] == "rna_watch"
            and len(parts) > 1
            and (PACKAGE / parts[1]).with_suffix("").name in set().union(*LEVELS)
        ):
            assert _level(parts[1]) <= _level(own), f"{_name(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_third_party_libraries_pass_their_gates(path: Path) -> None:
    """Ray is imported in one file, watchdog in one, rich where a person looks, torch where models are whole."""
    for imported in _imports(path):
        allowed = GATES.get(imported.split(".")[0])
        assert allowed is None or _name(path).startswith(allowed), f"{_name(path)} imports {imported}"


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "acceleration"], ids=_name)
def test_the_mathematics_needs_numpy_alone(path: Path) -> None:
    """Nothing in `acceleration/` touches files, clocks, logs or other libraries."""
    outside = {imported.split(".")[0] for imported in _imports(path)} - {"rna_watch"}
    assert outside <= {
        "__future__",
        "collections",
        "dataclasses",
        "itertools",
        "math",
        "numpy",
        "re",
        "statistics",
        "typing",
    }


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name == "training"], ids=_name)
def test_the_form_in_the_loop_needs_torch_and_numpy_alone(path: Path) -> None:
    """Nothing in `training/` reaches further than the mathematics and the errors, torch and numpy."""
    for imported in _imports(path):
        top, *rest = imported.split(".")
        if top == "rna_watch":
            assert rest[0] in {"acceleration", "errors", "training"}, f"{_name(path)} imports {imported}"
        else:
            assert top in {"torch", "numpy"} | sys.stdlib_module_names, f"{_name(path)} imports {imported}"


def test_importing_the_form_in_the_loop_brings_torch_and_nothing_of_ours() -> None:
    """In a training environment no Ray, watchdog, rich, click, pydantic, yaml or safetensors comes along."""
    others = {"ray", "watchdog", "rich", "click", "pydantic", "yaml", "safetensors"}
    code = f"import sys, rna_watch.training; print(*({others} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_are_short_and_say_what_they_are(path: Path) -> None:
    """At most 400 lines, with a docstring; every public class and function has one too."""
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{_name(path)}: {node.name}"


@pytest.mark.parametrize("module", ["rna_watch", "rna_watch.acceleration.family", "rna_watch.formats.probe"])
def test_importing_is_light(module: str) -> None:
    """People import us inside training environments: no Ray, watchdog, torch, rich or click comes along."""
    code = f"import sys, {module}; print(*({{'ray', 'watchdog', 'torch', 'rich', 'click', 'pydantic'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_nothing_of_this_repository_names_a_machine() -> None:
    """No file holds a path of somebody's machine."""
    root = PACKAGE.parent
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    needles = ("/ro" + "ot/", "/work/" + "main", "/home/" + "user")
    for name in listed.stdout.splitlines():
        file = root / name
        if file.is_file() and file.suffix != ".png":
            text = file.read_text(errors="replace")
            assert not any(needle in text for needle in needles), name
