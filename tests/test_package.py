"""The package is built, installed into empty environments, and works there, outside of the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rna_watch import kernels
from tests.commands.test_light_commands import ALL, LINES
from tests.daemon.runs import train

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parents[1]
CONSTRAINED = ("--constraint", str(ROOT / "constraints.txt"))
LIGHT = ("numpy", "pydantic", "PyYAML", "rich", "threadpoolctl", "click", "watchdog")  # all but torch and Ray
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
OTHER_VERSIONS = ("3.12", "3.13")
pytestmark = pytest.mark.slow


def _run(*words: object, cwd: Path) -> str:
    """Run a command outside of the repository, with nothing of it on Python's path."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def _environment(folder: Path, packages: Iterable[str], python: str = sys.executable) -> Path:
    """An empty environment with these packages; returns its folder of programs."""
    _run(python, "-m", "venv", folder, cwd=folder.parent)
    _run(folder / "bin/pip", "install", "--quiet", *CONSTRAINED, *packages, cwd=folder.parent)
    return folder / "bin"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    clutter = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", ".*", "shared")
    shutil.copytree(ROOT, tree, ignore=clutter)
    programs = _environment(folder / "build", ["setuptools>=77", "wheel"])
    _run(programs / "python", "-c", BUILD, folder, cwd=tree)
    [sdist] = folder.glob("*.tar.gz")
    _run(programs / "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, sdist, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return sdist, wheel


def test_sdist_and_wheel_hold_the_package_and_the_manual(built: tuple[Path, Path]) -> None:
    """Every module is in both, the manual and what is compiled in the sdist; no test is in the wheel."""
    sdist, wheel = built
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "rna_watch").rglob("*.py*") if path.suffix != ".pyc"}
    sources = {f"rna_watch/kernels/{name}" for name in ("_loops.c", "_sums.h")}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    compiled = {"rna_watch/kernels/_loops.abi3.so"} if kernels.COMPILED else set()  # as here, so where it is built
    assert modules | compiled | {"rna_watch/py.typed"} == {name for name in in_wheel if name.startswith("rna_watch/")}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert modules | sources | pages | {"README.md", "LICENSE", "constraints.txt", "CHANGELOG.md"} <= in_sdist


def test_the_wheel_works_in_an_empty_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """`demo`, `extrapolate`, `start` and `report`, with the versions of constraints.txt."""
    _, wheel = built
    program = _environment(tmp_path / "environment", [f"{wheel}[demo,report]"]) / "rna-watch"
    train(tmp_path / "RUN", count=6)
    steps = [f"RUN/step_{step}.pt" for step in (1, 2, 3)]
    assert "rna-2" in _run(program, "extrapolate", *steps, "-o", "model.pt", cwd=tmp_path)
    said = _run(program, "start", "RUN", "--engine", "local", "--foreground", "--last-step", "6", cwd=tmp_path)
    assert "watching" in said
    assert (tmp_path / "RUN/rna/step_6.pt").exists()
    _run(program, "demo", "--epochs", "8", "--engine", "local", "--dir", "demo", cwd=tmp_path)
    _run(program, "report", "demo/run", "-o", "report.html", cwd=tmp_path)
    assert "</html>" in (tmp_path / "report.html").read_text()


def _interpreter(version: str) -> str | None:
    """A Python of this version, on the path or among those of pyenv; None if there is none that starts."""
    installed = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (f"python{version}", *map(str, sorted(installed.glob(f"{version}.*/bin/python")))):
        if shutil.which(found) and not subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
            return found
    return None


@pytest.mark.parametrize("version", OTHER_VERSIONS)
def test_light_commands_work_on_other_versions_of_python(
    version: str, built: tuple[Path, Path], tmp_path: Path
) -> None:
    """The wheel without torch and Ray, and every command that needs neither."""
    python = _interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    programs = _environment(tmp_path / "environment", LIGHT, python)
    _run(programs / "pip", "install", "--quiet", "--no-deps", built[1], cwd=tmp_path)
    train(tmp_path / "RUN", count=4)
    said = _run(programs / "python", "-P", "-c", ALL, *LINES, cwd=tmp_path)
    ended = [line for line in said.splitlines() if line.startswith("ended ")]
    assert ended == [f"ended {code}: {line}" for line, code in LINES.items()], said
