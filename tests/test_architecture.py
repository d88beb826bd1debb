"""The house: imports point down only, third-party gates hold, importing the package is light."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rna_watch"
# from the bottom up; no arrow points up, and none from one folder of a level to another
LEVELS = (
    {"errors", "exporter_names", "kernels"},
    {"acceleration"},
    {"layout", "training", "config"},
    {"formats", "integrations"},
    {"journal", "window"},
    {"publishing", "watching"},
    {"evaluation"},
    {"dashboard", "engine"},
    {"daemon", "comparison"},
    {"reproduce", "exporters", "remote"},
    {"commands", "help_pages", "setting_options"},
    {"options", "run_options"},
    {"manual_page"},
    {"api", "cli"},
    {"__main__"},
)
OUTSIDE = {"__init__", "demo"}  # the package's face, and scripts that import nothing of ours
LARGEST_SHARE = 0.2
# who may import a library; every other library is free
GATES = {
    "ray": ("engine/ray_cluster.py",),
    "watchdog": ("watching/hints.py",),
    "rich": ("dashboard/", "comparison/", "commands/", "cli.py"),
    "matplotlib": ("comparison/", "reproduce/", "commands/reproduce.py"),
    "torch": ("evaluation/", "demo/", "training/", "integrations/", "reproduce/", "api.py"),
    "click": ("cli.py", "help_pages.py", "options.py", "setting_options.py", "run_options.py", "manual_page.py"),
    "yaml": ("config.py",),
    "pydantic": ("config.py",),
    "sklearn": ("demo/", "reproduce/", "commands/demo.py"),
    "scipy": ("reproduce/",),
    "fsspec": ("remote/store.py",),
    "wandb": ("exporters/wandb_run.py",),
    "mlflow": ("exporters/mlflow_run.py",),
    "lightning": ("integrations/lightning_callback.py",),
    "transformers": ("integrations/hugging_face_callback.py",),
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


def _room(module: str) -> str:
    """The folder or file of the package's top level that a module lies in."""
    return module.split(".")[1] if "." in module else "__init__"


def _arrows(root: Path) -> dict[str, set[str]]:
    """Which modules of the package each module imports, at whatever place, for type checking too."""
    modules = {
        ".".join((root.name, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    arrows = {}
    for module, path in modules.items():
        found = {name for name in _imports(path) if name in modules} - {module}
        # `from package.folder import module` is an arrow to the module alone
        arrows[module] = {name for name in found if not any(other.startswith(f"{name}.") for other in found)}
    return arrows


def _wrong_ways(arrows: dict[str, set[str]]) -> list[str]:
    """The imports that do not point down, or within one folder."""
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
    return [
        f"{module} imports {imported}"
        for module, targets in sorted(arrows.items())
        for imported in sorted(targets)
        if (a := _room(module)) != (b := _room(imported))
        and a not in OUTSIDE - {"demo"}
        and (a == "demo" or b in OUTSIDE - {"__init__"} or (b != "__init__" and level[b] >= level[a]))
    ]


def _circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, if there are any: what is left when leaves are taken off again and again."""
    left = {module: set(targets) for module, targets in arrows.items()}
    while leaves := [module for module, targets in left.items() if not targets & left.keys()]:
        for leaf in leaves:
            del left[leaf]
    imported = set().union(*left.values()) if left else set()
    while tops := [module for module in left if module not in imported]:
        for top in tops:
            del left[top]
        imported = set().union(*left.values()) if left else set()
    return sorted(left)


def test_imports_point_down_only() -> None:
    """A folder imports only from folders on levels below its own; type checking's imports count."""
    assert _wrong_ways(_arrows(PACKAGE)) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Every module can be understood after those that it imports."""
    assert _circle(_arrows(PACKAGE)) == []


def test_contributing_shows_the_floors() -> None:
    """The list of floors in CONTRIBUTING.md is made from this module's."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    shown = text.partition("<!-- floors: begin -->\n")[2].partition("<!-- floors: end -->")[0]
    assert shown == "".join(
        f"{number}. {', '.join(f'`{room}`' for room in sorted(rooms))}\n" for number, rooms in enumerate(LEVELS, 1)
    )


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("acceleration/gram.py", "from rna_watch.layout import dtypes"),
        ("watching/steps.py", "from rna_watch.publishing.clone import Clone"),
        ("daemon/window.py", "if True:\n    from rna_watch.commands import inspect"),
        ("demo/train_digits.py", "from rna_watch import errors"),
    ],
)
def test_an_arrow_up_or_sideways_is_seen(tmp_path: Path, file: str, line: str) -> None:
    """The tests of the layers fail when such an import is put in."""
    copy = Path(shutil.copytree(PACKAGE, tmp_path / PACKAGE.name))
    with (copy / file).open("a") as changed:
        changed.write(f"\n{line}\n")
    assert len(_wrong_ways(_arrows(copy))) == 1


def test_a_circle_of_files_is_seen(tmp_path: Path) -> None:
    """The test of circles fails when one is put in within a folder."""
    copy = Path(shutil.copytree(PACKAGE, tmp_path / PACKAGE.name))
    with (copy / "layout" / "strides.py").open("a") as changed:
        changed.write("\nfrom rna_watch.layout.layout import Layout\n")
    with (copy / "layout" / "layout.py").open("a") as changed:
        changed.write("\nfrom rna_watch.layout.strides import runs\n")
    assert "rna_watch.layout.strides" in _circle(_arrows(copy))


def test_no_folder_holds_a_fifth_of_the_package() -> None:
    """The largest folder holds less than a fifth of all lines."""
    lines: dict[str, int] = {}
    for path in MODULES:
        room = path.relative_to(PACKAGE).parts[0]
        lines[room] = lines.get(room, 0) + len(path.read_text().splitlines())
    largest = max(lines, key=lines.__getitem__)
    assert lines[largest] < LARGEST_SHARE * sum(lines.values()), largest


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
        "importlib",
        "itertools",
        "math",
        "numpy",
        "re",
        "statistics",
        "types",
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
    """A training environment gets no Ray, watchdog, rich, click, pydantic, yaml or safetensors."""
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


_ACTS = {
    *(
        "unlink",
        "remove",
        "rename",
        "renames",
        "replace",
        "rmdir",
        "removedirs",
        "truncate",
        "link",
        "symlink",
        "mkdir",
    ),
    *("makedirs", "rmtree", "move", "copy", "copyfile", "copytree", "touch", "write_text", "write_bytes", "symlink_to"),
    *(
        "hardlink_to",
        "mkdtemp",
        "mkstemp",
        "TemporaryDirectory",
        "NamedTemporaryFile",
        "RotatingFileHandler",
        "FileHandler",
    ),
}
_OF_PATHS = {"unlink", "rename", "rmdir", "mkdir", "touch", "write_text", "write_bytes", "symlink_to", "hardlink_to"}
_OF_MODULES = {"os", "shutil", "tempfile", "handlers", "Path"}
_WATCHING = ("daemon", "journal", "publishing", "engine", "window", "watching", "evaluation", "formats")


def _acts(path: Path) -> list[str]:
    """Calls that open for writing, make, rename or remove something by a path."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        of = function.value if isinstance(function, ast.Attribute) else None
        owner = of.id if isinstance(of, ast.Name) else of.attr if isinstance(of, ast.Attribute) else ""
        given = [*node.args, *(each.value for each in node.keywords)]
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        writes = name == "open" and any(set(mode) <= set("rwxab+t") and set(mode) & set("wxa+") for mode in modes)
        flags = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
        opens = name == "open" and owner == "os" and flags & {"O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"}
        module = owner in _OF_MODULES and name in _ACTS
        of_path = owner not in {"disk", "owned"} and of is not None and name in _OF_PATHS
        of_path = of_path or (of is not None and name == "replace" and len(given) == 1)  # of a text it takes two
        if writes or opens or module or of_path:
            found.append(f"{_name(path) if path.is_relative_to(PACKAGE) else path.name}:{node.lineno} {owner}.{name}")
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name in _WATCHING], ids=_name)
def test_files_are_written_and_removed_in_one_place(path: Path) -> None:
    """What opens for writing, renames or removes goes through `layout/disk.py`, which looks whose it is and follows no link."""
    assert _acts(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "os.unlink(path)",
        "os.replace(a, b)",
        "shutil.rmtree(path, ignore_errors=True)",
        "path.unlink(missing_ok=True)",
        "self.paths.lock.rename(other)",
        "temporary.replace(path)",
        "Path(path).open('r+b', buffering=0)",
        "open(path, mode='w')",
        "os.open(path, os.O_RDWR | os.O_CREAT, 0o644)",
        "tempfile.mkdtemp()",
        "logging.handlers.RotatingFileHandler(path)",
        "path.write_text('')",
    ],
)
def test_an_act_in_another_place_is_seen(tmp_path: Path, line: str) -> None:
    """The test of that finds each way to write or remove; what reads, and what the one place offers, it lets pass."""
    (tmp_path / "module.py").write_text(f"{line}\npath.open('rb')\n'a'.replace('b', 'c')\ndisk.remove(path)\n")
    assert len(_acts(tmp_path / "module.py")) == 1


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


# where text goes out: a function that prints, or a console that draws
PRINTERS = {"print", "secho", "Console", "StreamHandler"}
OUTLETS = {
    "journal/echo.py": {"write"},
    "cli.py": {"StreamHandler"},  # with the formatter of echo
    "dashboard/picture.py": {"Console"},  # records a picture, and prints nowhere
}


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_all_text_goes_out_through_one_function(path: Path) -> None:
    """Nothing but `echo` and `PlainConsole` writes to a terminal: what a name or a message holds is never obeyed."""
    if _name(path).startswith(("demo/", "reproduce/", "dashboard/terminal.py")):
        return
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
            if name == "print" and "console" in owner:
                continue
            if (
                name in PRINTERS
                or (owner in {"sys.stdout", "sys.stderr"} and name == "write")
                or (owner, name) == ("click", "echo")
            ):
                found.add(name)
    assert found <= OUTLETS.get(_name(path), set()), f"{_name(path)} prints by {found}"
