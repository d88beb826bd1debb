"""The mathematics holds whatever kernel of OpenBLAS rounds it: the tests of this folder pass under each that this CPU runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

HERE = Path(__file__).parent
# of AVX-512, AVX2, AVX and SSE; OpenBLAS takes the newest that the CPU has, unless OPENBLAS_CORETYPE names one
KERNELS = ("SkylakeX", "Haswell", "Sandybridge", "Nehalem")
NO_PRODUCTS = ("test_kernels.py", "test_selection.py", "test_significance.py")
_PROBE = """
import numpy, threadpoolctl
numpy.linalg.eigh(numpy.ones((40, 40)) @ numpy.ones((40, 40)))
print(*[each["architecture"] for each in threadpoolctl.threadpool_info() if each["internal_api"] == "openblas"])
"""


def _child(kernel: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with numpy's products by a kernel: it is chosen when numpy is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"OPENBLAS_CORETYPE": kernel}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)


def _why_not(kernel: str) -> str:
    """Why a kernel cannot be tried here ("" if it can)."""
    assert np.__version__  # imported: its BLAS is loaded
    here = [each["architecture"] for each in threadpoolctl.threadpool_info() if each["internal_api"] == "openblas"]
    if not here:
        return "this numpy does not use OpenBLAS"
    if kernel in here:
        return f"{kernel} is the kernel of this process: the other tests have used it"
    probe = _child(kernel, "-c", _PROBE)
    if probe.returncode == -signal.SIGILL:
        return f"this CPU lacks instructions of OpenBLAS's {kernel} kernel"
    assert probe.returncode == 0, probe.stderr
    taken = set(probe.stdout.split())
    return (
        "" if taken == {kernel} else f"OpenBLAS takes {', '.join(sorted(taken))} on this CPU when {kernel} is asked for"
    )


@pytest.mark.parametrize(
    "kernel", [pytest.param(each, marks=[pytest.mark.slow] if each in KERNELS[2:] else []) for each in KERNELS]
)
def test_the_mathematics_holds_on_every_kernel(kernel: str) -> None:
    """All quick tests of this folder but those of no matrix pass in a process whose products are rounded as that kernel does."""
    if why := _why_not(kernel):
        pytest.skip(why)
    ignored = [f"--ignore={HERE / name}" for name in NO_PRODUCTS]
    options = ("-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "-m", "not slow")
    done = _child(kernel, *options, str(HERE), *ignored)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert " passed" in done.stdout
