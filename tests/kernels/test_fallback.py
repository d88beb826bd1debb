"""Where the loops are compiled and where they are not: what is used, and that a model is the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from rna_watch import kernels

_BLOCKED = "import sys; sys.modules['rna_watch.kernels._loops'] = None\n"


def _without_loops(code: str, *arguments: str) -> str:
    """What Python prints in a process that cannot load the compiled loops."""
    command = [sys.executable, "-c", _BLOCKED + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_where_a_compiler_was_there_the_loops_are_compiled() -> None:
    """Else every test of them would be skipped unseen."""
    if shutil.which("gcc") is None or not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        pytest.skip("there is no gcc, or no header of Python")
    assert kernels.COMPILED


def test_without_them_plans_name_products_by_blas() -> None:
    """The package says so, and the twin is what a plan of another machine gets."""
    code = (
        "from rna_watch import kernels\n"
        "from rna_watch.acceleration.gram import kernel_for\n"
        "print(kernels.COMPILED, kernels.add_gram.__module__, kernel_for(5, 'Haswell'))"
    )
    assert _without_loops(code).split() == ["False", "rna_watch.kernels.twin", "vectors"]


@pytest.mark.parametrize("method", ["average", "rna"])
def test_a_model_is_the_same_without_them(method: str, tmp_path: Path) -> None:
    """An average to the bit; the weights of RNA to the rounding of the Gram matrix."""
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        tensors = {
            "w": torch.randn(400, 300, generator=generator),
            "h": torch.randn(999, generator=generator).bfloat16(),
        }
        torch.save(tensors, tmp_path / f"step_{step}.pt")
    given = [str(tmp_path / f"step_{step}.pt") for step in range(6)]
    options = ["--method", method, "--engine", "local"]
    run = "from rna_watch.cli import main; sys.argv[0] = 'rna-watch'; main()"
    _without_loops(run, "extrapolate", *given, "-o", str(tmp_path / "blas.pt"), *options)
    command = [sys.executable, "-m", "rna_watch", "extrapolate", *given, "-o", str(tmp_path / "loops.pt"), *options]
    subprocess.run(command, capture_output=True, check=True)
    one, other = (torch.load(tmp_path / name) for name in ("blas.pt", "loops.pt"))
    if method == "average":
        assert (tmp_path / "blas.pt").read_bytes() == (tmp_path / "loops.pt").read_bytes()
    for name in one:
        torch.testing.assert_close(one[name], other[name])
